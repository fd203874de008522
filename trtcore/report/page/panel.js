// The panel beside the graph: what was made, what is in torch and what it costs, and what was clicked on.
const content = document.getElementById("content");

function tag(name, attributes = {}, ...children) {
  const one = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "click") { one.addEventListener("click", value); one.tabIndex = 0; one.addEventListener("keydown", (e) => { if (e.key === "Enter") value(e); }); }
    else if (key === "style") one.style.cssText = value;
    else one.setAttribute(key, value);
  }
  one.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return one;
}
const code = (text) => tag("code", {}, text);
// words between backticks are code
const words = (text) => String(text).split(/`([^`]+)`/).map((part, i) => (i % 2 ? code(part) : part));
const heading = (text) => tag("h2", {}, text);
function facts(rows) {
  const list = tag("dl");
  for (const [name, value] of rows) if (value) list.append(tag("dt", {}, name), tag("dd", {}, ...(Array.isArray(value) ? value : [value])));
  return list;
}
function bytes(count) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) { if (count < 1024) return `${count < 10 && unit !== "B" ? count.toFixed(1) : Math.round(count)} ${unit}`; count /= 1024; }
  return count.toFixed(1) + " TiB";
}
function big(count) {
  for (const unit of ["", " k", " M", " G", " T"]) { if (count < 1000) return `${Number(count.toPrecision(3))}${unit}`; count /= 1000; }
  return count.toExponential(1);
}
const seconds = (s) => (s < 1 ? Math.round(s * 1000) + " ms" : s < 100 ? s.toFixed(1) + " s" : `${Math.floor(s / 60)} min ${Math.round(s % 60)} s`);
const goTo = (name) => { const box = view.tree.ofNode.get(name); if (box) { show(box); select(box); } };
const link = (name) => (view.tree.ofNode.has(name) ? tag("a", { click: () => goTo(name) }, code(name)) : code(name));
const links = (names) => names.flatMap((name, index) => (index ? [", ", link(name)] : [link(name)]));
function segmentTag(name) {
  const go = () => { const box = view.tree.boxes.get("segment:" + name); if (box) { show(box); select(box); } };
  return tag("span", { class: "tag place", style: `--h:${hueOf(name)}`, click: go }, name);
}
function shares(counts, total) {
  const bar = tag("div", { class: "bar" });
  for (const [name, count] of counts) bar.append(tag("i", { class: isTorch(name) ? "torch" : "", style: `--h:${hueOf(name)};width:${(100 * count) / total}%`, title: `${name}: ${count} ops` }));
  return bar;
}

// -- the tabs --------------------------------------------------------------------------------------------

const tabs = { overview: "Overview", torch: "In torch", node: "Selected", search: "Found" };
let tab = "overview";
function openTab(name) {
  tab = name;
  for (const one of document.querySelectorAll("#panel nav button")) one.setAttribute("aria-selected", String(one.dataset.tab === name));
  content.replaceChildren(...{ overview, torch: inTorch, node: selected, search: found }[name]());
  content.scrollTop = 0;
}
function makeTabs() {
  const nav = document.querySelector("#panel nav");
  for (const [name, text] of Object.entries(tabs)) {
    const words = name === "torch" ? `${text} (${data.torch.reduce((sum, one) => sum + one.nodes.length, 0)})` : text;
    const button = tag("button", { role: "tab", "data-tab": name }, words);
    button.addEventListener("click", () => openTab(name));
    nav.append(button);
  }
}

function overview() {
  const parts = [];
  if (data.note) parts.push(tag("div", { class: "note" }, data.note));
  parts.push(facts(data.facts.map(([name, value]) => [name, value])));
  if (data.stages.length) {
    parts.push(heading("Time"));
    const most = Math.max(...data.stages.map(([, s]) => s), 1e-9);
    for (const [name, s] of data.stages) parts.push(tag("div", { class: "step" }, tag("span", {}, name), tag("i", { style: `width:${(100 * s) / most}%` }), tag("b", {}, seconds(s))));
  }
  parts.push(heading("Segments, in the order in which they run"), segmentTable());
  if (data.quarantined.length) parts.push(heading("Back to torch after a failure"), ...data.quarantined.map(quarantineCard));
  if (data.packs.length) parts.push(heading("Packs"), packTable());
  for (const [name, lines] of data.lists) if (lines.length) parts.push(heading(name), tag("ul", { class: "plain" }, ...lines.map((line) => tag("li", {}, line))));
  return parts;
}
function segmentTable() {
  const built = segments.some((one) => one.layers !== null);
  const columns = ["segment", "ops", ...(built ? ["layers", "engine", "build"] : [])];
  const table = tag("table", {}, tag("tr", {}, ...columns.map((name, i) => tag("th", { class: i ? "n" : "" }, name))));
  for (const one of segments) {
    const cells = [tag("td", {}, segmentTag(one.name), one.cached ? " from the cache" : ""), tag("td", { class: "n" }, String(one.ops))];
    if (built) cells.push(...[one.layers ?? "", one.engine_bytes === null ? "" : bytes(one.engine_bytes), one.build_seconds === null ? "" : seconds(one.build_seconds)].map((text) => tag("td", { class: "n" }, String(text))));
    table.append(tag("tr", {}, ...cells));
  }
  return tag("div", { class: "scroll" }, table);
}
function packTable() {
  const table = tag("table", {}, tag("tr", {}, tag("th", {}, "pack"), tag("th", {}, "status"), tag("th", { class: "n" }, "ops")));
  for (const one of data.packs) {
    table.append(tag("tr", {}, tag("td", {}, `${one.name} ${one.version}`), tag("td", {}, one.status), tag("td", { class: "n" }, String(one.ops))));
    if (one.error) table.append(tag("tr", {}, tag("td", { colspan: 3, class: "dim" }, one.error)));
  }
  return tag("div", { class: "scroll" }, table);
}
function quarantineCard(one) {
  return tag("div", { class: "card" }, tag("div", { class: "head" }, link(one.node), code(one.op)), tag("p", {}, one.reason),
    ...one.tensorrt.map((line) => tag("p", { class: "dim mono" }, "TensorRT: " + line)),
    one.converter ? tag("p", { class: "dim" }, `${one.converter} of ${one.pack}`) : "");
}

function inTorch() {
  if (!data.torch.length) return [tag("p", {}, nodes.length ? "Nothing: engines compute every op." : "The model has no ops.")];
  const total = data.torch.reduce((sum, one) => sum + one.cost, 0);
  const parts = [tag("p", { class: "dim" }, "What costs the most comes first. Costs are estimates from shapes at their usual sizes: bytes that are read and written, or floating-point operations at 100 to the byte where they weigh more.")];
  for (const one of data.torch) {
    const part = total ? one.cost / total : 0;
    parts.push(tag("div", { class: "card" },
      tag("div", { class: "head" }, tag("span", {}, `${one.nodes.length} × `, code(one.op)), tag("span", { class: "cost" }, total ? `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %, ${bytes(one.cost)}` : "")),
      tag("div", { class: "bar" }, tag("i", { class: "torch", style: `--h:32;width:${100 * part}%` })),
      tag("p", {}, ...words(one.reason || "no reason given")),
      one.advice ? tag("div", { class: "advice" }, ...words(one.advice)) : "",
      tag("p", { class: "dim" }, "at ", ...links(one.nodes.slice(0, 6)), one.nodes.length > 6 ? ` and ${one.nodes.length - 6} more` : "")));
  }
  return parts;
}

function selected() {
  const box = view.selected;
  if (!box) return [tag("p", { class: "dim" }, "Click on a node of the graph, or on a group to fold or unfold it.")];
  if (box.kind === "op") return nodeDetails(box.node);
  if (box.kind === "io") return [tag("h3", {}, box.label), facts([["type", code(box.type)], ["of", box.takes ? links(box.takes) : "the model's input"]])];
  return groupDetails(box);
}
function nodeDetails(node) {
  const parts = [tag("h3", {}, shortOp(node.op)), tag("p", { class: "dim mono" }, `${node.name} = ${node.op}`)];
  parts.push(tag("p", {}, segmentTag(node.segment), " ", node.lost ? tag("span", { class: "tag" }, "lost to " + node.lost) : ""));
  if (node.reason) parts.push(tag("p", {}, ...words(node.reason)));
  if (node.advice) parts.push(tag("div", { class: "advice" }, ...words(node.advice)));
  parts.push(facts([
    ["source", node.source && code(node.source)],
    ["module", node.path && tag("span", {}, code(node.path), data.modules[node.path] ? ` (${data.modules[node.path]})` : "")],
    ["converter", node.converter && tag("span", {}, code(node.converter), ` of ${node.pack}`)],
    ["gives", node.outputs.length ? node.outputs.flatMap((text, i) => (i ? [tag("br"), code(text)] : [code(text)])) : ""],
    ["moves", node.bytes === null ? "" : node.bytes === 0 ? "nothing: a view" : bytes(node.bytes)],
    ["operations", node.flops ? big(node.flops) + "FLOP" : ""],
    ["not lowered", node.precision],
    ["stands for", node.sources.join(", ")],
  ]));
  if (node.inputs.length || node.weights.length) parts.push(heading("Takes"), tag("ul", { class: "plain" },
    ...node.inputs.map((name) => tag("li", {}, link(name), " ", tag("span", { class: "dim mono" }, typeOf(name)))),
    ...node.weights.map((text) => tag("li", {}, code(text)))));
  if (node.users.length) parts.push(heading("Taken by"), tag("p", {}, ...links(node.users)));
  if (node.candidates.length) parts.push(heading("Converters that were considered"), ...node.candidates.map((one) =>
    tag("div", { class: "card" }, tag("div", { class: "head" }, code(one.converter), tag("span", { class: "tag " + one.verdict }, one.verdict)),
      tag("p", { class: "dim" }, `${one.pack}, priority ${one.priority}`), one.reason ? tag("p", {}, one.reason) : "")));
  if (node.layers.length) parts.push(heading(`TensorRT layers (${node.layers.length})`), tag("ul", { class: "plain" }, ...node.layers.map((text) => tag("li", { class: "mono" }, text))));
  return parts;
}
function typeOf(name) {
  const box = view.tree.ofNode.get(name);
  return box?.node ? box.node.outputs.join(", ") : box?.type || "";
}
function groupDetails(box) {
  const parts = [tag("h3", {}, box.label), box.path ? tag("p", { class: "dim mono" }, box.path + (data.modules[box.path] ? `: ${data.modules[box.path]}` : "")) : ""];
  parts.push(tag("p", {}, `${box.ops} ops`), shares(box.share, box.ops));
  const known = box.segment ? segmentOf.get(box.segment) : null;
  if (known) parts.push(facts([
    ["kind", known.kind + (known.cached ? ", from the cache" : "")], ["layers", known.layers === null ? "" : String(known.layers)],
    ["engine", known.engine_bytes === null ? "" : bytes(known.engine_bytes)], ["build", known.build_seconds === null ? "" : seconds(known.build_seconds)],
    ["inputs", known.inputs.flatMap((text, i) => (i ? [tag("br"), code(text)] : [code(text)]))],
    ["outputs", known.outputs.flatMap((text, i) => (i ? [tag("br"), code(text)] : [code(text)]))],
  ]));
  parts.push(heading("Ops"), countTable(box));
  return parts.filter(Boolean);
}
function countTable(box) {
  const counts = new Map();
  const queue = [box];
  while (queue.length) {
    const one = queue.pop();
    if (one.kind === "op") counts.set(one.node.op, (counts.get(one.node.op) || 0) + 1);
    queue.push(...one.children);
  }
  const table = tag("table");
  for (const [op, count] of [...counts].sort((a, b) => b[1] - a[1])) table.append(tag("tr", {}, tag("td", {}, code(op)), tag("td", { class: "n" }, String(count))));
  return tag("div", { class: "scroll" }, table);
}

// -- search ----------------------------------------------------------------------------------------------

const search = document.getElementById("search");
let hits = [];
function look_for(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  hits = words.length ? nodes.filter((node) => words.every((word) => haystack(node).includes(word))) : [];
  view.matches = new Set(hits.map((node) => "op:" + node.name));
  mark();
  if (words.length) openTab("search");
  else if (tab === "search") openTab("overview");
}
function haystack(node) {
  node.hay ??= [node.name, node.op, node.path, node.converter, node.pack, node.reason, node.segment, node.source, ...node.outputs].join(" ").toLowerCase();
  return node.hay;
}
function found() {
  if (!search.value.trim()) return [tag("p", { class: "dim" }, "Type above: an op, a module's path, a file, a word of a reason.")];
  const parts = [tag("p", { class: "dim" }, `${hits.length} of ${nodes.length} ops` + (hits.length > 200 ? ", the first 200" : ""))];
  parts.push(tag("ul", { class: "plain" }, ...hits.slice(0, 200).map((node) => tag("li", { class: "hit", click: () => goTo(node.name) },
    tag("span", { class: "swatch" + (isTorch(node.segment) ? " torch" : ""), style: `--h:${hueOf(node.segment)};margin-right:8px` }),
    code(node.name), " ", tag("span", { class: "dim" }, node.op + (node.path ? `, ${node.path}` : ""))))));
  return parts;
}
