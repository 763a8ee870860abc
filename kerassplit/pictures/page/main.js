// Ties the page together: selection, links, search, keys.

import { light, mark, measures, openAll, reveal, show, start } from "./graph.js";
import { callsBefore, data, element, named, profile } from "./model.js";
import { drawChart, markChart, showDetails, showTip } from "./panel.js";
import { startPlanner } from "./planner.js";
import { fit, pan, zoom } from "./view.js";

const at = (id) => document.getElementById(id);
const pointer = { x: 0, y: 0 };
let chosen = [];

// The cuts of the split, if the page shows one.
const ownCuts = data.cuts.map((names) => names.map((name) => named.get(name)));

// Lights up cuts, each given by the calls before it, and marks their tensors in the chart.
function cut(heads, tensors) {
  chosen = tensors;
  light(heads);
  markChart(null, chosen);
}

function select(tensor) {
  const hash = tensor === null ? "" : `#${encodeURIComponent(profile.tensors[tensor].name)}`;
  if (location.hash === hash) selected();
  else location.hash = hash;
}

function selected() {
  let name = "";
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch {
    /* not a link of this page */
  }
  const tensor = named.get(name) ?? null;
  showDetails(at("details"), tensor);
  if (tensor === null) {
    cut(ownCuts.map(callsBefore), ownCuts.flat());
    return;
  }
  cut([callsBefore([tensor])], [tensor]);
  reveal(tensor);
}

function point(tensor, about) {
  mark(tensor ?? null);
  markChart(tensor ?? null, chosen);
  showTip(at("tip"), tensor ?? null, about, pointer.x, pointer.y);
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
addEventListener("pointermove", (event) => Object.assign(pointer, { x: event.clientX, y: event.clientY }));
addEventListener("hashchange", selected);

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
startPlanner(at("planner"), cut);
selected();
