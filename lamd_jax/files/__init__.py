"""Files written whole or not at all, damage and locks, a store of computed rows."""
