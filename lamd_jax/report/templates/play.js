(() => {
  const controls = document.querySelector(".controls");
  const videos = [...document.querySelectorAll(".clip video")];
  if (!controls || !videos.length) return;
  const fps = Number(controls.dataset.fps);
  const frames = Number(controls.dataset.frames);
  const [button, speed, slider, shown] =
    ["button", "select", "input", "output"].map((name) => controls.querySelector(name));
  const leader = videos[0];
  let playing = !matchMedia("(prefers-reduced-motion: reduce)").matches;

  const frame = () => Math.min(frames - 1, Math.floor(leader.currentTime * fps + 1e-3));
  const show = (n) => {
    slider.value = n;
    shown.textContent = "frame " + (n + 1) + " of " + frames;
    slider.setAttribute("aria-valuetext", shown.textContent);
  };
  // The middle of a frame: its edge may round to the frame before.
  const seek = (n) => videos.forEach((v) => { v.currentTime = (n + 0.5) / fps; });
  const apply = () => {
    button.textContent = playing ? "Pause" : "Play";
    videos.forEach((v) => {
      v.playbackRate = Number(speed.value);
      if (playing) v.play().catch(() => {}); else v.pause();
    });
  };
  button.addEventListener("click", () => {
    playing = !playing;
    if (!playing) seek(frame());
    apply();
  });
  speed.addEventListener("change", apply);
  slider.addEventListener("input", () => {
    playing = false;
    apply();
    seek(Number(slider.value));
    show(Number(slider.value));
  });
  const tick = () => { if (playing) show(frame()); requestAnimationFrame(tick); };
  // All clips are equally long and loop by themselves; a clip that falls behind
  // by about a frame is set to where the first one is.
  setInterval(() => {
    if (!playing || leader.seeking) return;
    const length = leader.duration || frames / fps;
    videos.forEach((v) => {
      const apart = Math.abs(v.currentTime - leader.currentTime);
      if (Math.min(apart, length - apart) > Math.max(0.9 / fps, 0.08)) v.currentTime = leader.currentTime;
    });
  }, 700);
  const ready = videos.map((v) => new Promise((done) => {
    if (v.readyState >= 3) done();
    else ["canplay", "error"].forEach((e) => v.addEventListener(e, done, { once: true }));
  }));
  Promise.all(ready).then(() => {
    seek(0);
    show(0);
    apply();
    requestAnimationFrame(tick);
  });
  controls.hidden = false;
})();
