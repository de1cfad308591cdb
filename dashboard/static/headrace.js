// Live parts, keys and questions. Every page works without it.
"use strict";

const EVERY_MS = 3000;

async function read(address) {
  const answer = await fetch(address, { headers: { accept: "text/html" } });
  // Led elsewhere: the session is over, and the page would not be the one that was wanted.
  if (answer.redirected) location.reload();
  if (!answer.ok) throw new Error(answer.status);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

// -- Live parts: the page is read again, and what is marked is put in the place of what was.
async function refresh() {
  const fresh = await read(location.href);
  for (const part of document.querySelectorAll("[data-live]")) {
    const next = fresh.querySelector(`[data-live="${part.dataset.live}"]`);
    // Nothing moves under the keyboard's focus or a selection.
    const chosen = getSelection();
    const marked = !chosen.isCollapsed && part.contains(chosen.anchorNode);
    if (next && !marked && !part.contains(document.activeElement)) part.replaceWith(document.adoptNode(next));
  }
  // Its session may be a new one.
  const token = fresh.querySelector("[name=__dd_csrf]");
  for (const each of document.querySelectorAll("[name=__dd_csrf]")) each.value = token?.value ?? each.value;
}

function keepFresh() {
  const shownAsked = document.querySelector("[data-still]");
  if (shownAsked || !document.querySelector("[data-live]")) return;
  let timer = 0;
  const again = async () => {
    try {
      if (!document.hidden) await refresh();
      document.getElementById("stale").hidden = true;
    } catch {
      // The server is away; the next look may find it.
      document.getElementById("stale").hidden = false;
    }
    timer = setTimeout(again, EVERY_MS);
  };
  timer = setTimeout(again, EVERY_MS);
  addEventListener("pagehide", () => clearTimeout(timer));
}

// -- A search that found nothing in the part it looked at goes on by itself once it is told to.
async function searchOn(link) {
  let address = link.href;
  // In the link's place: the table is a live part, where it would be overwritten.
  const told = link.parentElement;
  told.setAttribute("role", "status");
  told.textContent = "Looking on.";
  for (let parts = 2; ; parts += 1) {
    const page = await read(address);
    const next = page.querySelector("a[data-onward]");
    if (!next) break;
    address = next.href;
    told.textContent = `None in ${parts} parts so far; looking on.`;
  }
  location.assign(address);
}

addEventListener("click", (event) => {
  const link = event.target.closest("a[data-onward]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  searchOn(link).catch(() => location.assign(link.href));
});

// -- What an action did is told once, not by every copy of the address.
function forgetWhatWasDone() {
  const address = new URL(location.href);
  if (!address.searchParams.has("did")) return;
  address.searchParams.delete("did");
  history.replaceState(null, "", address);
}

// -- Questions before what can't be undone.
addEventListener("submit", (event) => {
  const question = event.target.dataset.sure;
  if (question && !confirm(question)) event.preventDefault();
});

// -- Light or dark, kept in a cookie that the server reads.
function theme() {
  const root = document.documentElement;
  const light = matchMedia("(prefers-color-scheme: light)").matches;
  const now = root.dataset.theme || (light ? "light" : "dark");
  root.dataset.theme = now === "light" ? "dark" : "light";
  document.cookie = `headrace_theme=${root.dataset.theme}; path=/; max-age=31536000; samesite=strict`;
}

// -- Keys.
const KEYS = [
  ["/", "search"], ["j, k", "next, previous row"], ["Enter", "open the row"], ["n", "next page"],
  ["g and a letter", "go to the page that begins with it"], ["?", "this list"],
];

function help() {
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-label", "Keys");
  const list = document.createElement("dl");
  for (const [key, what] of KEYS) {
    const term = document.createElement("dt");
    term.append(Object.assign(document.createElement("kbd"), { textContent: key }));
    list.append(term, Object.assign(document.createElement("dd"), { textContent: what }));
  }
  const close = Object.assign(document.createElement("button"), { textContent: "Close", className: "button" });
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  dialog.append(list, close);
  document.body.append(dialog);
  dialog.showModal();
}

function row(step) {
  const links = [...document.querySelectorAll("tbody tr")].map((each) => each.querySelector("a")).filter(Boolean);
  const at = links.indexOf(document.activeElement);
  links[Math.min(Math.max(at + step, 0), links.length - 1)]?.focus();
}

let going = false;
addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (going) {
    going = false;
    document.querySelector(`[data-go="${CSS.escape(event.key)}"]`)?.click();
    return;
  }
  const acts = {
    "/": () => document.querySelector("[data-search]")?.focus(),
    j: () => row(1),
    k: () => row(-1),
    n: () => document.querySelector("a[rel=next]")?.click(),
    g: () => { going = true; },
    "?": help,
  };
  if (acts[event.key]) {
    event.preventDefault();
    acts[event.key]();
  }
});

document.getElementById("theme")?.addEventListener("click", theme);
forgetWhatWasDone();
keepFresh();
