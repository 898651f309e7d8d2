// What a page does by itself: keys, filters that apply at once, and lists that grow while the run goes on.
"use strict";

const rows = () => [...document.querySelectorAll("[data-row]")];
const follow = (selector) => document.querySelector(selector)?.click();
let chosen = -1;

function choose(number) {
  const all = rows();
  if (!all.length) return;
  all[chosen]?.classList.remove("here");
  chosen = Math.max(0, Math.min(number, all.length - 1));
  all[chosen].classList.add("here");
  all[chosen].querySelector("a")?.focus();
  all[chosen].scrollIntoView({ block: "nearest" });
}

const places = { c: "/conversations", o: "/" };
let went = 0;
const keys = {
  j: () => choose(chosen + 1),
  k: () => choose(chosen - 1),
  n: () => follow('a[rel="next"]'),
  p: () => follow('a[rel="prev"]'),
  u: () => follow('a[rel="up"]'),
  g: () => { went = Date.now(); },
  "/": () => document.querySelector('input[type="search"]')?.focus(),
  "?": () => { const help = document.querySelector("footer details"); help.open = !help.open; help.scrollIntoView(); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (Date.now() - went < 1500 && places[event.key]) {
    location.href = places[event.key];
  } else if (keys[event.key]) {
    event.preventDefault();
    keys[event.key]();
  }
});

const form = document.querySelector("form.filters");
function submit() {
  for (const field of form.elements) if (field.name) field.disabled = field.value === "";  // short addresses
  form.submit();
}
form?.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
form?.addEventListener("change", (event) => { if (event.target.matches("select")) submit(); });
window.addEventListener("pageshow", () => { for (const field of form?.elements ?? []) field.disabled = false; });

let version = Number(document.body.dataset.version);
async function look() {
  try {
    const now = await (await fetch("/status.json")).json();
    const reading = now.reading ? ", reading" : "";
    const told = `${now.status}, ${now.read.toLocaleString("en")} of ${now.planned.toLocaleString("en")} conversations${reading}`;
    const state = document.getElementById("state");
    if (state.textContent !== told) state.textContent = told;
    if (now.version !== version) {
      version = now.version;
      await renew();
    }
  } catch {
    document.getElementById("state").textContent = "candor view has ended";
  }
}

async function renew() {
  const live = document.querySelector("[data-live]");
  if (!live || !getSelection().isCollapsed) return;
  const page = new DOMParser().parseFromString(await (await fetch(location.href)).text(), "text/html");
  const fresh = page.querySelector("[data-live]");
  if (!fresh) return;
  live.replaceWith(document.adoptNode(fresh));
  if (chosen >= 0) rows()[chosen]?.classList.add("here");
}
setInterval(look, 2000);
