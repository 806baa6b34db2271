"""Files written whole or not at all, and a store of computed rows."""
