// Ties the page together: selection, links, search, keys.

import { light, mark, measures, openAll, reveal, show, start } from "./graph.js";
import { data, element, named, profile } from "./model.js";
import { drawChart, markChart } from "./chart.js";
import { showDetails, showTip } from "./panel.js";
import { startPlanner } from "./planner.js";
import { headsOf, isCut, ownCuts, showStages, sorted } from "./stages.js";
import { fit, pan, zoom } from "./view.js";

const at = (id) => document.getElementById(id);
let chosen = [];
let shown = null; // the address of what is shown
let adding = false; // whether a click adds a cut, as with Shift

// Lights up cuts, each given by the calls before it, and marks their tensors in the chart.
function cut(heads, tensors) {
  chosen = tensors;
  light(heads);
  markChart(null, chosen);
}

// The address holds the cuts: `#first,second`, and `&` between tensors that cross together.
const address = (cuts) =>
  cuts.map((one) => one.map((tensor) => encodeURIComponent(profile.tensors[tensor].name)).join("&")).join(",");

function addressed() {
  const read = (text) => {
    try {
      return named.get(decodeURIComponent(text));
    } catch {
      return undefined; // not a link of this page
    }
  };
  const text = location.hash.slice(1);
  const whole = read(text);
  if (whole !== undefined) return [[whole]];
  const cuts = text.split(",").map((one) => one.split("&").map(read).filter((tensor) => tensor !== undefined));
  return cuts.filter((one) => one.length);
}

function go(cuts) {
  location.hash = cuts.length ? `#${address(cuts)}` : "";
  selected();
}

// Selects a tensor; with Shift, cuts there, too, or not any more.
function select(tensor, event) {
  if (tensor === null) adding = false;
  if (tensor === null || !(event?.shiftKey || adding)) {
    go(tensor === null ? [] : [[tensor]]);
    return;
  }
  const given = addressed();
  const cuts = given.length ? given : ownCuts;
  const others = cuts.filter((one) => one.length > 1 || one[0] !== tensor);
  if (others.length < cuts.length) go(others);
  else if (isCut(tensor)) go([...cuts, [tensor]]);
  else showDetails(at("details"), tensor);
}

function selected() {
  const given = addressed();
  shown = location.hash;
  const cuts = sorted(given.length ? given : ownCuts);
  const [tensor] = given.at(-1) ?? [null];
  showDetails(at("details"), tensor);
  showStages(
    at("stages"),
    cuts.filter((one) => one.every((each) => isCut(each) || one.length > 1)),
    {
      adding,
      add: (more) => {
        adding = more;
        selected();
      },
      remove: (place) => go(cuts.filter((_, index) => index !== place)),
    },
  );
  at("details").hidden = tensor === null && cuts.length > 0;
  cut(headsOf(cuts), cuts.flat());
  if (tensor !== null) reveal(tensor);
}

function point(tensor, about, where) {
  mark(tensor ?? null);
  markChart(tensor ?? null, chosen);
  showTip(at("tip"), tensor ?? null, about, where);
}

// Search: the names that contain all words; arrows choose one.
function startSearch() {
  const [box, list] = [at("search"), at("found")];
  let place = 0;
  const close = () => {
    list.hidden = true;
    box.setAttribute("aria-expanded", "false");
    box.removeAttribute("aria-activedescendant");
  };
  const choose = (tensor) => {
    close();
    box.blur();
    select(tensor);
  };
  const update = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = profile.tensors
      .flatMap(({ name }, tensor) =>
        words.length && words.every((word) => name.toLowerCase().includes(word)) ? [tensor] : [],
      )
      .slice(0, 12);
    place = Math.min(place, Math.max(found.length - 1, 0));
    list.replaceChildren(
      ...found.map((tensor, index) =>
        element(
          "li",
          {
            id: `found-${index}`,
            role: "option",
            "data-tensor": tensor,
            "aria-selected": String(index === place),
            pointerdown: (event) => {
              event.preventDefault();
              choose(tensor);
            },
          },
          profile.tensors[tensor].name,
        ),
      ),
    );
    list.hidden = !found.length;
    box.setAttribute("aria-expanded", String(!list.hidden));
    if (found.length) box.setAttribute("aria-activedescendant", `found-${place}`);
  };
  box.addEventListener("input", () => {
    place = 0;
    update();
  });
  box.addEventListener("blur", close);
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      place = Math.max(place + (event.key === "ArrowDown" ? 1 : -1), 0);
      update();
    } else if (event.key === "Enter" && list.children[place]) {
      choose(Number(list.children[place].dataset.tensor));
    } else if (event.key === "Escape") {
      close();
      box.blur();
    }
  });
}

const KEYS = {
  "/": () => at("search").select(),
  f: fit,
  Escape: () => select(null),
  "+": () => zoom(1.25),
  "=": () => zoom(1.25),
  "-": () => zoom(0.8),
  ArrowLeft: () => pan(60, 0),
  ArrowRight: () => pan(-60, 0),
  ArrowUp: () => pan(0, 60),
  ArrowDown: () => pan(0, -60),
};

addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, select, textarea");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  event.preventDefault();
  KEYS[event.key]();
});
addEventListener("hashchange", () => {
  if (location.hash !== shown) selected();
});
// In a notebook's frame, a browser would take a link to be one of the notebook.
document.addEventListener("click", (event) => {
  const to = event.target.closest?.("a[href^='#']");
  if (!to || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  select(named.get(decodeURIComponent(to.getAttribute("href").slice(1))), event);
});

document.querySelector("h1").textContent = data.title;
at("subtitle").textContent = data.subtitle;
at("measure").append(...Object.entries(measures).map(([value, [name]]) => element("option", { value }, name)));
at("measure").addEventListener("change", () => show(at("measure").value));
at("fit").addEventListener("click", fit);
at("open-all").addEventListener("click", () => openAll(true));
at("fold-all").addEventListener("click", () => openAll(false));
startSearch();
start(at("canvas"), { select, point });
drawChart(at("chart"), { select, point });
startPlanner(at("planner"), cut, go);
selected();
