// Samples beside their references, see looking() in blocks.html.
function sample(figure) {
  const buttons = [...figure.querySelectorAll(".strip button")], parts = [...figure.querySelectorAll("[data-part]:not([data-part=reference])")];
  const worst = buttons.find(button => button.getAttribute("aria-pressed") === "true");
  const slider = figure.querySelector(".slide input"), large = figure.querySelector(".large"), player = film(figure);
  const show = button => {
    for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
    for (const part of parts) {
      const address = button.dataset[part.dataset.part] || (part.dataset.part === "own" && button.querySelector("img").src);
      if (address && part.getAttribute("src") !== address) part.src = address;
      if (part.dataset.part === "own") part.setAttribute(part.tagName === "IMG" ? "alt" : "aria-label", button.dataset.lane);
    }
    for (const place of figure.querySelectorAll(".lane")) place.textContent = button.dataset.lane;
    figure.querySelector(".verdict").textContent = button.dataset.said;
    player.again();
  };
  for (const button of buttons) button.addEventListener("click", () => show(button));
  if (slider) slider.addEventListener("input", () => slider.parentElement.style.setProperty("--at", slider.value + "%"));
  if (large) large.addEventListener("click", () => large.setAttribute("aria-pressed", String(figure.classList.toggle("actual"))));
  const of = lane => buttons.find(button => button.dataset.lane === lane);
  return { figure, look: lane => show(of(lane) || worst), value: lane => Number((of(lane) || worst).dataset.value) };
}

// The videos of a sample, played, paused and moved together: the first one leads.
function film(figure) {
  const videos = [...figure.querySelectorAll("video")], [leader, ...others] = videos;
  if (!leader) return { again: () => {} };
  const rate = Number(figure.dataset.rate), play = figure.querySelector(".play"), seek = figure.querySelector(".transport input"), told = figure.querySelector("output");
  const frames = Number(seek.max) + 1;
  let playing = false;
  const tell = frame => { seek.value = frame; told.textContent = `frame ${frame + 1} of ${frames}`; };
  const move = () => { for (const video of videos) video.currentTime = (Number(seek.value) + .5) / rate; };  // the middle of the frame
  const start = () => Promise.all(videos.map(video => video.play())).catch(error => { if (error.name !== "AbortError") throw error; });
  const follow = () => {
    if (!playing) return;
    tell(Math.min(frames - 1, Math.floor(leader.currentTime * rate)));
    for (const other of others) if (Math.abs(other.currentTime - leader.currentTime) > .75 / rate) other.currentTime = leader.currentTime;
    requestAnimationFrame(follow);
  };
  const set = now => {
    playing = now;
    play.textContent = now ? "Pause" : "Play";
    if (now) { start(); requestAnimationFrame(follow); } else { for (const video of videos) video.pause(); move(); }
  };
  leader.addEventListener("ended", () => { if (playing) { for (const video of videos) video.currentTime = 0; start(); } });
  play.addEventListener("click", () => set(!playing));
  seek.addEventListener("input", () => { tell(Number(seek.value)); if (playing) set(false); else move(); });
  new IntersectionObserver((seen, observer) => {
    if (!seen.some(one => one.isIntersecting)) return;
    observer.disconnect();
    for (const video of videos) video.preload = "auto";
    move();
  }, { rootMargin: "50%" }).observe(figure);
  return { again: () => { if (playing) { for (const other of others) other.currentTime = leader.currentTime; start(); } else move(); } };
}

function looking(block) {
  const samples = [...block.querySelectorAll(".sample")].map(sample), [shown, folded] = block.querySelectorAll(".samples"), chosen = block.querySelector("select");
  const look = () => {
    const sorted = samples.map((one, place) => [chosen.value ? one.value(chosen.value) : place, one]).sort(([a], [b]) => a - b);
    sorted.forEach(([, one], place) => { one.look(chosen.value); (place < Number(block.dataset.opened) ? shown : folded).append(one.figure); });
  };
  chosen.addEventListener("change", look);
  return samples;
}

const samples = [...document.querySelectorAll(".looking")].flatMap(looking);
// whoever is sent to a sample sees it, as the lane drew it that sent them
const reveal = lane => {
  const found = samples.find(one => "#" + one.figure.id === location.hash), fold = found && found.figure.closest("details");
  if (fold) fold.open = true;
  if (found && lane) found.look(lane);
  if (found) { found.figure.scrollIntoView(); found.figure.focus({ preventScroll: true }); }
};
addEventListener("hashchange", () => reveal());
for (const link of document.querySelectorAll("a[data-lane]")) link.addEventListener("click", event => { event.preventDefault(); history.replaceState(null, "", link.hash); reveal(link.dataset.lane); });
reveal();
