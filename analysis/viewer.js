// The episode viewer of the report. viewer.py makes its data; viewer.html is its frame.
"use strict";
(async () => {
  const byId = (id) => document.getElementById(id);
  const root = byId("viewer");
  if (!root) return;
  if (!window.DecompressionStream) {
    root.textContent = "The episode viewer needs a browser of 2023 or later.";
    return;
  }
  const head = JSON.parse(byId("viewer-head").textContent);
  if (!head.episodes.length) {
    root.textContent = "No recorded episode fits into the page.";
    return;
  }
  const tables = await unpack("viewer-tables");
  const pictures = await unpack("viewer-frames");
  const loaded = {}; // index -> episode
  const now = { index: 0, step: 0, level: 0, x: 0, y: 1 };
  const hidden = new Set(["edges"]);
  let episode = null;
  let timer = null;

  // ---------------------------------------------------------------- data

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(byId(id).textContent.trim()), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
  }

  async function load(index) {
    loaded[index] ??= await unpack(`viewer-episode-${index}`);
    return loaded[index];
  }

  // index of the plan that a level follows at a step
  function planAt(level, step) {
    const steps = level.plans.step;
    let low = 0;
    let high = steps.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (steps[middle] <= step) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  // later attempts of an agent have its graph
  const graphNow = () => tables.graphs[episode.agent] || tables.graphs[episode.agent.split(", attempt ")[0]];
  const walls = () => (episode.walls.length ? episode.walls : head.walls);
  const of = (level, name, i) => (level.plans[name] ? level.plans[name][i] : null);
  const number = (x) => (x === null || x === undefined ? "–" : String(Number(Number(x).toPrecision(3))));

  const names = head.axes.map((name) => name.split(" (")[0]); // without units
  const numbersText = (numbers) => names.map((name, i) => `${name} ${number(numbers[i])}`).join(", ");

  // ---------------------------------------------------------------- elements

  function el(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (name === "class") made.className = value;
      else if (name === "style") made.style.cssText = value;
      else made.setAttribute(name, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  }

  function svg(tag, attributes, title) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (title) {
      const text = document.createElementNS("http://www.w3.org/2000/svg", "title");
      text.textContent = title;
      made.append(text);
      made.classList.add("tip");
      made.addEventListener("mouseenter", () => (byId("v-note").textContent = title));
      made.addEventListener("click", () => (byId("v-note").textContent = title));
    }
    return made;
  }

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colorOf = (level) => css(`--level${level % 5}`);
  const PARTS = ["--level0", "--level2", "--level4", "--level1", "--level3"];

  // ---------------------------------------------------------------- map

  // a place on the map: of a state and the environment step that it belongs to
  function point(numbers, step) {
    const value = (axis) => (axis < 0 ? step : numbers[axis]);
    return [value(now.x), value(now.y)];
  }

  function statePoint(place, step) {
    return place < 0 || place === null || place === undefined ? null : point(tables.states[place], step);
  }

  function stateText(place) {
    return place < 0 ? "" : numbersText(tables.states[place]);
  }

  let scale = null;

  // goals may lack some numbers of the state, but the drawn ones must be there; a negative axis is time
  function goalIsDrawn() {
    return (now.x >= 0 || now.y >= 0) && [now.x, now.y].every((axis) => axis < 0 || episode.goal[axis] !== null);
  }

  // everything in the episode
  function takeAll(take) {
    episode.path.forEach((numbers, i) => take(point(numbers, i)));
    if (goalIsDrawn()) take(point(episode.goal, 0));
    if (now.x >= 0 && now.y >= 0) {
      if (now.x === 0 && now.y === 1) for (const [x, y, w, h] of walls()) { take([x, y]); take([x + w, y + h]); }
      // with all landmarks, so that the map is the same for all episodes and reaches as far as the data
      for (const numbers of tables.cloud) take(point(numbers, 0));
      for (const graph of Object.values(tables.graphs)) for (const place of graph.nodes) take(statePoint(place, 0));
    }
    for (const level of episode.levels)
      for (let i = 0; i < level.plans.step.length; i++) {
        take(statePoint(of(level, "subgoal", i), level.plans.step[i] + level.plans.deadline[i]));
        (of(level, "predicted", i) || []).forEach((place, h) => take(statePoint(place, level.plans.step[i] + (h + 1) * level.period)));
      }
  }

  // what the plans of this step speak of
  function takePlans(take) {
    take(point(episode.path[now.step], now.step));
    for (const level of episode.levels) {
      const i = planAt(level, now.step);
      const made = level.plans.step[i];
      const end = made + level.plans.deadline[i];
      take(point(episode.path[made], made));
      for (const name of ["subgoal", "target"]) take(statePoint(of(level, name, i), end));
      (of(level, "alternative_subgoal", i) || []).forEach((place) => take(statePoint(place, end)));
      (of(level, "predicted", i) || []).forEach((place, h) => take(statePoint(place, made + (h + 1) * level.period)));
    }
  }

  function fitMap() {
    const xs = [];
    const ys = [];
    const take = (p) => p && Number.isFinite(p[0]) && Number.isFinite(p[1]) && (xs.push(p[0]), ys.push(p[1]));
    if (byId("v-zoom").checked) takePlans(take);
    else takeAll(take);
    const range = (values) => {
      let low = Infinity;
      let high = -Infinity;
      for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
      const margin = (byId("v-zoom").checked ? 0.15 : 0.04) * (high - low) || 0.5;
      return [low - margin, high + margin];
    };
    const [left, right] = range(xs);
    const [bottom, top] = range(ys);
    const width = byId("v-map").clientWidth || 560;
    const equal = walls().length && now.x >= 0 && now.y >= 0;
    const ratio = equal ? (top - bottom) / (right - left) : 0.75;
    const wide = width - AXES.left - AXES.right;
    const high = Math.round(wide * Math.min(1.1, Math.max(0.35, ratio)));
    const height = high + AXES.top + AXES.bottom;
    let [sx, sy] = [wide / (right - left), high / (top - bottom)];
    if (equal) sx = sy = Math.min(sx, sy);
    const dx = AXES.left + (wide - sx * (right - left)) / 2;
    const dy = AXES.bottom + (high - sy * (top - bottom)) / 2;
    scale = { width, height, wide, high, sx, sy, x: (x) => dx + (x - left) * sx, y: (y) => height - dy - (y - bottom) * sy };
    byId("v-map").setAttribute("viewBox", `0 0 ${width} ${height}`);
    byId("v-map").style.height = `${height}px`;
  }

  const AXES = { left: 46, right: 10, top: 8, bottom: 40 }; // pixels around the map, for the numbers at its axes

  // round numbers at least `least` pixels apart, between two pixels of an axis
  function ticks(toPixel, first, last, least) {
    const [origin, unit] = [toPixel(0), toPixel(1) - toPixel(0)];
    const [low, high] = [(first - origin) / unit, (last - origin) / unit].sort((a, b) => a - b);
    const wanted = least / Math.abs(unit);
    const power = 10 ** Math.floor(Math.log10(wanted));
    const by = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= wanted);
    const found = [];
    for (let i = Math.ceil(low / by); i * by <= high; i++) found.push(Number((i * by).toPrecision(6)));
    return found;
  }

  // the frame of the map, with numbers and names at its axes
  function drawAxes() {
    const { left, top } = AXES;
    const { wide, high } = scale;
    const group = svg("g", {});
    const add = (tag, attributes, text) => { const made = svg(tag, attributes); made.textContent = text ?? ""; group.append(made); };
    add("rect", { x: left, y: top, width: wide, height: high, fill: "none", stroke: css("--soft") });
    for (const x of ticks(scale.x, left, left + wide, 60)) {
      add("path", { d: `M${scale.x(x)} ${top + high}v4`, stroke: css("--soft") });
      add("text", { x: scale.x(x), y: top + high + 15, "text-anchor": "middle" }, x);
    }
    for (const y of ticks(scale.y, top + high, top, 45)) {
      add("path", { d: `M${left} ${scale.y(y)}h-4`, stroke: css("--soft") });
      add("text", { x: left - 6, y: scale.y(y) + 4, "text-anchor": "end" }, y);
    }
    const title = (axis) => (axis < 0 ? "environment step" : head.axes[axis]);
    add("text", { x: left + wide / 2, y: top + high + 32, "text-anchor": "middle" }, title(now.x));
    const middle = top + high / 2;
    add("text", { x: 11, y: middle, "text-anchor": "middle", transform: `rotate(-90 11 ${middle})` }, title(now.y));
    return group;
  }

  const at = (p) => `${scale.x(p[0]).toFixed(1)} ${scale.y(p[1]).toFixed(1)}`;
  const line = (points) => points.filter((p) => p && p.every(Number.isFinite)).map((p, i) => (i ? "L" : "M") + at(p)).join("");
  const dots = (points) => points.filter((p) => p && p.every(Number.isFinite)).map((p) => `M${at(p)}h0`).join("");

  function star(p, radius, attributes, title) {
    const corners = [...Array(10).keys()].map((i) => {
      const [r, a] = [i % 2 ? radius * 0.45 : radius, (i * Math.PI) / 5];
      return `${(scale.x(p[0]) + r * Math.sin(a)).toFixed(1)},${(scale.y(p[1]) - r * Math.cos(a)).toFixed(1)}`;
    });
    return svg("polygon", { points: corners.join(" "), ...attributes }, title);
  }

  // one sign per level: circle, square, diamond, triangle
  function sign(level, p, size, attributes, title) {
    const [x, y] = [scale.x(p[0]), scale.y(p[1])];
    const shapes = [
      () => svg("circle", { cx: x, cy: y, r: size, ...attributes }, title),
      () => svg("rect", { x: x - size, y: y - size, width: 2 * size, height: 2 * size, ...attributes }, title),
      () => svg("polygon", { points: `${x},${y - 1.3 * size} ${x + 1.3 * size},${y} ${x},${y + 1.3 * size} ${x - 1.3 * size},${y}`, ...attributes }, title),
      () => svg("polygon", { points: `${x},${y - 1.2 * size} ${x + 1.2 * size},${y + size} ${x - 1.2 * size},${y + size}`, ...attributes }, title),
    ];
    return shapes[level % shapes.length]();
  }

  function drawMap() {
    fitMap();
    const map = byId("v-map");
    const still = svg("g", {});
    const plain = now.x >= 0 && now.y >= 0;
    if (plain && now.x === 0 && now.y === 1)
      for (const [x, y, w, h] of walls())
        still.append(svg("rect", { x: scale.x(x), y: scale.y(y + h), width: w * scale.sx, height: h * scale.sy, fill: css("--wall") }));
    if (plain && tables.cloud.length)
      still.append(svg("path", { d: dots(tables.cloud.map((n) => point(n, 0))), stroke: css("--wall"), "stroke-width": 2.2, "stroke-linecap": "round" }));
    const graph = graphNow();
    if (graph && plain) {
      const places = graph.nodes.map((place) => statePoint(place, 0));
      if (!hidden.has("edges"))
        still.append(svg("path", { d: graph.edges.map(([a, b]) => line([places[a], places[b]])).join(""), stroke: css("--graph"), "stroke-width": 0.6, opacity: 0.5, fill: "none" }));
      if (!hidden.has("landmarks"))
        places.forEach((p, node) => still.append(svg("circle", { cx: scale.x(p[0]), cy: scale.y(p[1]), r: 2.2, fill: css("--graph") }, `landmark ${node} (${stateText(graph.nodes[node])})`)));
    }
    still.append(svg("path", { d: line(episode.path.map(point)), stroke: css("--soft"), "stroke-width": 1, fill: "none", opacity: 0.55 }));
    const clip = svg("clipPath", { id: "v-clip" });
    clip.append(svg("rect", { x: AXES.left, y: AXES.top, width: scale.wide, height: scale.high }));
    still.setAttribute("clip-path", "url(#v-clip)");
    map.replaceChildren(clip, still, svg("g", { id: "v-moving" }), drawAxes());
  }

  function drawStep() {
    const group = svg("g", { id: "v-moving", "clip-path": "url(#v-clip)" });
    const step = now.step;
    const here = point(episode.path[Math.min(step, episode.path.length - 1)], step);
    const add = (mark) => mark && group.append(mark);
    add(svg("path", { d: line(episode.path.slice(0, step + 1).map(point)), stroke: css("--ink"), "stroke-width": 2.2, fill: "none" }));
    const graph = graphNow();
    for (const level of [...episode.levels].reverse()) {
      const [k, i, color] = [level.level, planAt(level, step), colorOf(level.level)];
      const made = level.plans.step[i];
      const path = of(level, "path", i);
      if (path && graph && !hidden.has("path")) {
        add(svg("path", { d: line(path.map((node) => statePoint(graph.nodes[node], step))), stroke: css("--graph"), "stroke-width": 3, fill: "none", opacity: 0.8 }));
        path.forEach((node) => {
          const p = statePoint(graph.nodes[node], step);
          add(sign(0, p, 3, { fill: css("--graph") }, `landmark ${node}, on the path of level ${k} to the goal (${stateText(graph.nodes[node])})`));
        });
      }
      if (hidden.has(`level${k}`)) continue;
      const start = point(episode.path[made], made);
      const predicted = (of(level, "predicted", i) || []).map((place, h) => statePoint(place, made + (h + 1) * level.period));
      if (predicted.length && !hidden.has("predicted")) {
        add(svg("path", { d: line([start, ...predicted]), stroke: color, "stroke-width": 1.6, "stroke-dasharray": "4 3", fill: "none" }));
        predicted.forEach((p, h) => p && add(sign(0, p, 2.6, { fill: color }, `predicted latent of level ${k}, ${h + 1} steps ahead, for step ${made + (h + 1) * level.period} (${stateText(of(level, "predicted", i)[h])})`)));
      }
      if (!hidden.has("alternatives"))
        (of(level, "alternative_subgoal", i) || []).forEach((place, n) => {
          const p = statePoint(place, made + level.plans.deadline[i]);
          if (p) add(sign(3, p, 4.5, { fill: "none", stroke: color, "stroke-width": 1.4 }, `alternative ${n + 1} of level ${k}, at cost ${number(of(level, "alternative_cost", i)[n])}: ${lost(level, i, n)}`));
        });
      const target = statePoint(of(level, "target", i), made);
      if (target && !hidden.has("target")) {
        const node = of(level, "path_target", i);
        add(star(target, 9, { fill: "none", stroke: color, "stroke-width": 1.8 }, `target of level ${k}${node === null || node < 0 ? "" : `, landmark ${node}`} (${stateText(of(level, "target", i))})`));
        if (node !== null && node >= 0) {
          const x = scale.x(target[0]);
          const rightmost = x > 0.75 * scale.width; // where the text would leave the map
          const label = svg("text", { x: rightmost ? x - 10 : x + 10, y: scale.y(target[1]) - 8, "text-anchor": rightmost ? "end" : "start" });
          label.textContent = `landmark ${node}`;
          add(label);
        }
      }
      if (k > 0) {
        const p = statePoint(of(level, "subgoal", i), made + level.plans.deadline[i]);
        if (p) add(sign(k, p, 4.5 + k, { fill: color, stroke: css("--card"), "stroke-width": 1.2 }, `subgoal of level ${k}, to be reached by step ${made + level.plans.deadline[i]}: ${became(level, i)} (${stateText(of(level, "subgoal", i))})`));
      }
    }
    add(sign(0, point(episode.path[0], 0), 5, { fill: css("--good") }, "start of the episode"));
    if (goalIsDrawn()) {
      const goal = point(episode.goal, episode.steps);
      add(star(goal, 10, { fill: css("--goal"), stroke: css("--card") }, `goal (${numbersText(episode.goal)})`));
    }
    add(svg("circle", { cx: scale.x(here[0]), cy: scale.y(here[1]), r: 6.5, fill: css("--ink"), stroke: css("--card"), "stroke-width": 2 }, `the agent at step ${step}`));
    byId("v-moving").replaceWith(group);
  }

  // ---------------------------------------------------------------- words

  function lost(level, i, n) {
    const [cost, penalty, violation, own] = ["alternative_cost", "alternative_penalty", "alternative_violation", null].map((name) => (name ? of(level, name, i)[n] : of(level, "cost", i)));
    if (violation > 0) return `violates constraints by ${number(violation)}`;
    if (penalty > 0 && cost - penalty < own) return `${number(penalty)} of its cost because it failed before`;
    return cost >= own ? `costs ${number(cost - own)} more` : `costs ${number(own - cost)} less, but the solver chose another`;
  }

  function became(level, i) {
    const [code, decided, left] = ["outcome", "decided", "left"].map((name) => of(level, name, i));
    if (code === null) return "";
    const share = left === null ? "" : `, ${left >= 0.995 ? "all" : left < 0.005 ? "nothing" : number(left)} of its distance was left`;
    return head.outcomes[code] + (decided < 0 ? "" : ` (known at step ${decided})`) + share;
  }

  // a plan in words names landmarks by their numbers; here their states are known
  function withPlaces(level, text) {
    const graph = graphNow();
    if (!graph || graph.level !== level.level) return text;
    return text.replace(/landmark (\d+)/g, (name, node) => (node in graph.nodes ? `${name} (${stateText(graph.nodes[node])})` : name));
  }

  const AGAIN = 5; // so many failures of one subgoal are named

  // the subgoal that failed most often and was never reached, of the highest level that has one
  function neverReached() {
    for (const level of [...episode.levels].reverse()) {
      const { subgoal, outcome } = level.plans;
      if (level.level === 0 || !outcome) continue;
      const failures = {};
      subgoal.forEach((place, i) => { if (outcome[i] > 1) failures[place] = (failures[place] || 0) + 1; });
      subgoal.forEach((place, i) => { if (outcome[i] === 1) delete failures[place]; });
      const [place, count] = Object.entries(failures).sort((a, b) => b[1] - a[1])[0] || [0, 0];
      if (count >= AGAIN) return { level: level.level, place: Number(place), count };
    }
    return null;
  }

  function headline() {
    if (episode.success) return `The goal was reached in ${episode.steps} steps.`;
    const said = `The goal was not reached in ${episode.steps} steps.`;
    const stuck = neverReached();
    if (!stuck) return said;
    const what = `Level ${stuck.level} handed down the same subgoal (${stateText(stuck.place)}) ${stuck.count} times, and it was never reached.`;
    return `${said} ${what}` + (head.failurePenalty > 0 ? "" : " Try planner.failure_penalty above 0, which makes a failed subgoal cost more (docs/concepts.md, Failures).");
  }

  // ---------------------------------------------------------------- levels

  function picture(index, text, color) {
    const uri = index === null || index === undefined || index < 0 ? null : pictures.table[index];
    return el("div", { class: "thumb" }, uri ? el("img", { src: uri, alt: text, style: color ? `border-color:${color}` : "" }) : el("div", { class: "none", title: "this frame does not fit into the page" }), text);
  }

  const pictureOf = (place, text, color) => picture(pictures.states[place], text, color);

  function framesNow() {
    if (!head.pictures) return [];
    const ids = pictures.episodes[now.index] || [];
    let best = -1;
    episode.frameSteps.forEach((step, i) => { if (step >= 0 && step <= now.step) best = i; });
    const shown = [picture(ids[best], `observed at step ${episode.frameSteps[best]}`)];
    const goal = episode.frameSteps.indexOf(-1);
    if (goal >= 0) shown.push(picture(ids[goal], "goal", css("--goal")));
    for (const level of [...episode.levels].reverse())
      if (level.level > 0) shown.push(pictureOf(of(level, "subgoal", planAt(level, now.step)), `subgoal of level ${level.level}, nearest real frame`, colorOf(level.level)));
    return shown;
  }

  function costBar(level, i) {
    const parts = of(level, "parts", i);
    if (!parts) return [el("p", {}, "It hands its target down as it is, without a search.")];
    const cheapest = of(level, "cheapest", i);
    const values = level.partNames.map((name, p) => [name, parts[p][cheapest], css(PARTS[p % PARTS.length])]).filter((each) => each[1] !== null);
    const sum = values.reduce((total, each) => total + Math.abs(each[1]), 0) || 1;
    const bar = el("div", { class: "cost" }, ...values.map(([name, value, color]) => el("span", { style: `width:${(100 * Math.abs(value)) / sum}%;background:${color}`, title: `${name} ${number(value)}` })));
    const key = values.map(([name, value, color]) => el("span", {}, el("span", { class: "key", style: `background:${color}` }), `${name} ${number(value)}  `));
    return [
      el("p", {}, `Cost ${number(of(level, "current_cost", i))} now, ${number(of(level, "cost", i))} at the cheapest step of the plan, ${cheapest + 1} of ${parts[0].filter((x) => x !== null).length}:`),
      bar,
      el("p", { class: "parts" }, ...key),
    ];
  }

  function alternatives(level, i) {
    const places = (of(level, "alternative_subgoal", i) || []).map((place, n) => [place, n]).filter(([place]) => place >= 0);
    if (!places.length) return null;
    if (head.pictures)
      return el("div", { class: "strip" }, ...places.map(([place, n]) => pictureOf(place, `alternative ${n + 1}, cost ${number(of(level, "alternative_cost", i)[n])}: ${lost(level, i, n)}`, colorOf(level.level))));
    const rows = places.map(([place, n]) => el("tr", {}, el("td", {}, stateText(place)), el("td", { class: "n" }, number(of(level, "alternative_cost", i)[n])), el("td", {}, lost(level, i, n))));
    return el("div", { class: "scroll" }, el("table", {}, el("tr", {}, el("th", {}, "alternative subgoal"), el("th", { class: "n" }, "cost"), el("th", {}, "why it lost")), ...rows));
  }

  function certainty(level, i) {
    const said = [];
    const cheapest = of(level, "cheapest", i);
    const off = level.level > 0 ? of(level, "subgoal_off", i) : null;
    if (off !== null) said.push(`the subgoal is ${number(off)} typical steps from the nearest real latent`);
    const disagreement = of(level, "disagreement", i);
    if (disagreement && disagreement[cheapest] !== null) said.push(`the members disagree by ${number(disagreement[cheapest])} at the cheapest step`);
    const value = of(level, "value", i);
    if (value) said.push(`predicted steps to the goal ${value.map(number).join(", ")}`);
    const violation = of(level, "violation", i);
    if (violation && violation.some((x) => x !== null)) said.push(`violation ${violation.map(number).join(", ")}`);
    const text = said.join("; ");
    return text ? el("p", {}, `${text[0].toUpperCase()}${text.slice(1)}.`) : null;
  }

  function levelPanel(level) {
    const [k, i] = [level.level, planAt(level, now.step)];
    const made = level.plans.step[i];
    const title = `level ${k}: plan ${i + 1} of ${level.plans.step.length}, made at step ${made}${now.step > made ? `, ${now.step - made} steps ago` : ", now"}`;
    const panel = el("section", { class: "level", style: `--level:${colorOf(k)}`, "data-level": k, "data-plan": i }, el("h4", {}, title));
    if (k > 0)
      panel.append(el("p", { class: "became" }, `Subgoal at ${stateText(of(level, "subgoal", i))}, to be reached by step ${made + level.plans.deadline[i]}: `, el("b", {}, became(level, i)), "."));
    panel.append(...costBar(level, i));
    if (head.pictures && of(level, "predicted", i))
      panel.append(el("div", { class: "strip" }, ...of(level, "predicted", i).map((place, h) => [place, h]).filter(([place]) => place >= 0).slice(0, 6).map(([place, h]) => pictureOf(place, `predicted for step ${made + (h + 1) * level.period}`))));
    const others = alternatives(level, i);
    if (others) panel.append(others);
    const sure = certainty(level, i);
    if (sure) panel.append(sure);
    panel.append(el("details", {}, el("summary", {}, "in words"), el("pre", { class: "why" }, withPlaces(level, level.why[i]))));
    const open = openWords.has(k);
    panel.querySelector("details").open = open;
    panel.querySelector("details").addEventListener("toggle", (event) => (event.target.open ? openWords.add(k) : openWords.delete(k)));
    return panel;
  }
  const openWords = new Set();

  // ---------------------------------------------------------------- charts

  function layout(x, y, more) {
    const [ink, line_] = [css("--ink"), css("--line")];
    const axis = (title) => ({ title: { text: title, font: { size: 12 } }, gridcolor: line_, zerolinecolor: line_, linecolor: line_, automargin: true });
    return {
      margin: { l: 48, r: 10, t: 8, b: 38 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, size: 11 }, showlegend: true,
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", font: { size: 11 } }, xaxis: { ...axis(x), rangemode: "tozero" }, yaxis: { ...axis(y), rangemode: "tozero" }, hovermode: "x", ...more,
    };
  }

  const options = { displayModeBar: false, responsive: true };
  const cursor = () => ({ shapes: [{ type: "line", x0: now.step, x1: now.step, yref: "paper", y0: 0, y1: 1, line: { color: css("--accent"), width: 1.5 } }] });
  const chosen = () => episode.levels[Math.min(now.level, episode.levels.length - 1)];

  function drawCharts() {
    const level = chosen();
    const plans = level.plans;
    const cost = [];
    if (plans.parts)
      level.partNames.forEach((name, p) => cost.push({
        name, x: plans.step, y: plans.parts.map((parts, i) => (parts[p] ? parts[p][plans.cheapest[i]] : null)), stackgroup: "cost", line: { width: 0.5, color: css(PARTS[p % PARTS.length]) }, fillcolor: css(PARTS[p % PARTS.length]), mode: "lines",
      }));
    cost.push({ name: "staying", x: plans.step, y: plans.current_cost, mode: "lines", line: { color: css("--ink"), width: 1.2 } });
    if (plans.outcome) {
      const colors = [css("--soft"), css("--good"), css("--bad"), css("--bad")];
      cost.push({
        name: "subgoal", x: plans.step, y: plans.step.map(() => 0), mode: "markers", text: plans.step.map((_, i) => `subgoal ${became(level, i)}`), hovertemplate: "%{text}<extra></extra>",
        marker: { size: 7, color: plans.outcome.map((code) => colors[code]), symbol: plans.outcome.map((code) => ["circle-open", "circle", "x", "x"][code]) }, cliponaxis: false,
      });
    }
    Plotly.react("v-cost", cost, layout("environment step", `cost, level ${level.level}`, cursor()), options);
    byId("v-cost").removeAllListeners?.("plotly_click");
    byId("v-cost").on("plotly_click", (event) => go(Math.round(event.points[0].x)));
    const support = [];
    if (plans.subgoal_off && level.level > 0) support.push({ name: "subgoal", x: plans.step, y: plans.subgoal_off, mode: "lines", line: { color: colorOf(level.level) } });
    if (plans.predicted_off) support.push({ name: "farthest prediction", x: plans.step, y: plans.predicted_off.map((row) => Math.max(...row.filter((x) => x !== null))), mode: "lines", line: { color: css("--soft") } });
    const axis = {};
    if (plans.disagreement) {
      support.push({ name: "disagreement", x: plans.step, y: plans.disagreement.map((row, i) => row[plans.cheapest[i]]), yaxis: "y2", mode: "lines", line: { color: css("--bad") } });
      axis.yaxis2 = { overlaying: "y", side: "right", rangemode: "tozero", title: { text: "disagreement", font: { size: 12 } }, automargin: true };
    }
    Plotly.react("v-support", support, layout("environment step", "distance (typical steps)", { ...cursor(), ...axis }), options);
    drawError();
  }

  function mean(rows, h) {
    const known = rows.map((row) => row[h]).filter((x) => x !== null && x !== undefined);
    return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
  }

  function drawError() {
    const level = chosen();
    const { error, moved } = level.plans;
    const shown = [];
    if (error) {
      const ahead = error[0].map((_, h) => (h + 1) * level.period);
      const i = planAt(level, now.step);
      const color = colorOf(level.level);
      shown.push({ name: "this plan", x: ahead, y: error[i], mode: "lines+markers", line: { color, width: 2 } });
      shown.push({ name: "no change", x: ahead, y: moved[i], mode: "lines", line: { color, width: 1.2, dash: "dot" } });
      shown.push({ name: "mean of the episode", x: ahead, y: ahead.map((_, h) => mean(error, h)), mode: "lines+markers", line: { color: css("--soft") }, marker: { size: 4 } });
      shown.push({ name: "mean, no change", x: ahead, y: ahead.map((_, h) => mean(moved, h)), mode: "lines", line: { color: css("--soft"), dash: "dot" } });
    }
    Plotly.react("v-error", shown, layout("environment steps ahead", "distance (typical steps)", error ? {} : { annotations: [{ text: "This level predicts nothing.", showarrow: false }] }), options);
  }

  // ---------------------------------------------------------------- what the page shows now

  function drawPicker() {
    byId("v-pick").replaceChildren(el("span", { class: "soft" }, "charts of"), ...[...episode.levels].reverse().map((level) => {
      const button = el("button", { class: level.level === chosen().level ? "on" : "" }, `level ${level.level}`);
      button.addEventListener("click", () => pick(level.level));
      return button;
    }));
  }

  function drawLegend() {
    const marks = [["landmarks", "landmarks"], ["edges", "edges of the graph"], ["path", "path over landmarks"], ["predicted", "predicted latents"], ["alternatives", "alternatives (triangles)"], ["target", "targets (open stars)"]];
    const graph = graphNow();
    const wanted = marks.filter(([name]) => graph || !["landmarks", "edges", "path"].includes(name));
    for (const level of [...episode.levels].reverse()) wanted.push([`level${level.level}`, `level ${level.level} (${["circles", "squares", "diamonds", "triangles"][level.level % 4]})`, colorOf(level.level)]);
    byId("v-legend").replaceChildren(...wanted.map(([name, text, color]) => {
      const box = el("input", { type: "checkbox" });
      box.checked = !hidden.has(name);
      box.addEventListener("change", () => { box.checked ? hidden.delete(name) : hidden.add(name); drawMap(); drawStep(); });
      return el("label", {}, box, color ? el("span", { class: "key", style: `background:${color}` }) : "", text);
    }), el("span", {}, "● start, ★ goal, large dot: the agent"));
  }

  function show() {
    const last = episode.steps - 1;
    now.step = Math.max(0, Math.min(last, now.step));
    byId("v-slider").max = last;
    byId("v-slider").value = now.step;
    byId("v-step").textContent = `step ${now.step} of ${last}`;
    if (byId("v-zoom").checked) drawMap();
    drawStep();
    byId("v-frames").replaceChildren(...framesNow());
    byId("v-levels").replaceChildren(...[...episode.levels].reverse().map(levelPanel));
    byId("v-action").textContent = `State: ${numbersText(episode.path[now.step])}. Action: ${episode.actions[now.step].map(number).join(", ")}.`;
    if (!timer) link();
    cancelAnimationFrame(show.waiting);
    show.waiting = requestAnimationFrame(() => {
      for (const id of ["v-cost", "v-support"]) if (byId(id).data) Plotly.relayout(id, cursor());
      drawError();
    });
  }

  function link() {
    const { agent, task, episode: numbered } = episode;
    try {
      history.replaceState(null, "", "#" + new URLSearchParams({ agent, task, episode: numbered, step: now.step }));
    } catch {
      // Safari allows 100 changes in 30 seconds; a later one succeeds
    }
  }

  const titleOf = (each) => `task ${each.task}, episode ${each.episode}: ${each.success ? "reached in" : "failed after"} ${each.steps} steps`;

  async function open(index, step) {
    pause();
    episode = await load(index);
    now.index = index;
    now.step = step || 0;
    const { agent } = episode;
    byId("v-agent").value = agent;
    const listed = head.episodes.map((each, i) => [each, i]).filter(([each]) => each.agent === agent);
    byId("v-episode").replaceChildren(...listed.map(([each, i]) => el("option", { value: i }, titleOf(each))));
    byId("v-episode").value = index;
    byId("v-outcome").className = `outcome ${episode.success ? "solved" : "failed"}`;
    byId("v-outcome").textContent = headline();
    if (!opened) now.level = Math.max(0, episode.levels.findLastIndex((level) => level.plans.predicted));
    opened = true;
    drawPicker();
    drawLegend();
    drawMap();
    show();
    drawCharts();
  }
  let opened = false;

  const go = (step) => { now.step = step; show(); };
  const move = (by) => open((now.index + by + head.episodes.length) % head.episodes.length);

  function nextFailure() {
    const count = head.episodes.length;
    for (let i = 1; i <= count; i++) if (!head.episodes[(now.index + i) % count].success) return open((now.index + i) % count);
  }

  function nextPlan(by) {
    const top = episode.levels[episode.levels.length - 1];
    const i = planAt(top, now.step);
    const back = by < 0 && now.step > top.plans.step[i] ? 0 : by;
    const to = top.plans.step[Math.max(0, Math.min(top.plans.step.length - 1, i + back))];
    go(to);
  }

  function pick(level) {
    if (level >= episode.levels.length) return;
    now.level = level;
    drawPicker();
    drawCharts();
  }

  function pause() {
    const played = timer !== null;
    clearInterval(timer);
    timer = null;
    byId("v-play").textContent = "▶";
    if (played) link();
  }

  function play() {
    if (timer) return pause();
    if (now.step >= episode.steps - 1) now.step = 0;
    byId("v-play").textContent = "❚❚";
    timer = setInterval(() => (now.step >= episode.steps - 1 ? pause() : go(now.step + Math.max(1, Math.round(episode.steps / 300)))), 120);
  }

  function linked() {
    const asked = new URLSearchParams(location.hash.slice(1));
    if (!asked.has("agent") && !asked.has("episode")) return null;
    const same = (name, each) => !asked.has(name) || String(each[name]) === asked.get(name);
    const index = head.episodes.findIndex((each) => same("agent", each) && same("task", each) && same("episode", each));
    return { index, step: Math.round(Number(asked.get("step"))) || 0 };
  }

  // ---------------------------------------------------------------- start

  const agents = [...new Set(head.episodes.map((each) => each.agent))];
  byId("v-agent").replaceChildren(...agents.map((name) => {
    const own = head.episodes.filter((each) => each.agent === name);
    const failures = own.filter((each) => !each.success).length;
    return el("option", { value: name }, `${name} (${failures || "no"} failure${failures === 1 ? "" : "s"} recorded)`);
  }));
  const axes = [...head.axes.map((name, i) => [i, name]), [-1, "environment step"]];
  for (const id of ["v-x", "v-y"]) byId(id).replaceChildren(...axes.map(([i, name]) => el("option", { value: i }, name)));
  if (head.axes.length < 2) [now.x, now.y] = [-1, 0];
  byId("v-x").value = now.x;
  byId("v-y").value = now.y;
  for (const [id, axis] of [["v-x", "x"], ["v-y", "y"]])
    byId(id).addEventListener("change", (event) => { now[axis] = Number(event.target.value); drawMap(); drawStep(); });
  byId("v-zoom").addEventListener("change", () => { drawMap(); drawStep(); });
  byId("v-agent").addEventListener("change", (event) => open(head.episodes.findIndex((each) => each.agent === event.target.value)));
  byId("v-episode").addEventListener("change", (event) => open(Number(event.target.value)));
  byId("v-slider").addEventListener("input", (event) => go(Number(event.target.value)));
  for (const [id, action] of [["v-before", () => move(-1)], ["v-after", () => move(1)], ["v-failure", nextFailure], ["v-play", play], ["v-back", () => go(now.step - 1)], ["v-forth", () => go(now.step + 1)]])
    byId(id).addEventListener("click", action);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "TEXTAREA"].includes(event.target.tagName)) return;
    const within = root.contains(document.activeElement);
    const by = event.shiftKey ? 10 : 1;
    const keys = { ArrowLeft: () => go(now.step - by), ArrowRight: () => go(now.step + by), n: () => move(1), p: () => move(-1), f: nextFailure };
    if (within) Object.assign(keys, { ArrowUp: () => nextPlan(-1), ArrowDown: () => nextPlan(1) });
    if (within && event.target.tagName !== "BUTTON") keys[" "] = play;
    const action = keys[event.key] || (/^\d$/.test(event.key) ? () => pick(Number(event.key)) : null);
    if (!action) return;
    event.preventDefault();
    action();
  });
  window.addEventListener("hashchange", () => {
    const asked = linked();
    if (asked && asked.index >= 0) open(asked.index, asked.step);
  });
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    drawMap();
    drawStep();
  });
  document.addEventListener("theme", () => { drawLegend(); drawMap(); show(); drawCharts(); });

  const asked = linked();
  const failure = head.episodes.findIndex((each) => !each.success);
  const first = asked && asked.index >= 0 ? asked.index : Math.max(0, failure);
  await open(first, asked && asked.index >= 0 ? asked.step : 0);
  if (asked && asked.index < 0) byId("v-outcome").textContent += " The address names an episode that is not in this page.";
  if (asked) root.scrollIntoView();
  root.dataset.ready = "true";
})();
