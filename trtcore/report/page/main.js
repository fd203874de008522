// Putting it together.
function select(box) {
  view.selected = box;
  mark();
  if (box) openTab("node");
}
function regroup(grouping) {
  const kept = view.selected?.node;
  view.tree = new Tree(grouping);
  view.selected = kept ? view.tree.ofNode.get(kept.name) : null;
  view.matches = new Set(hits.map((node) => "op:" + node.name));
  draw();
  fit();
}
function header() {
  const name = document.querySelector("h1");
  name.append(data.model || "model", tag("span", {}, `  trtcore ${data.kind}`));
  const total = data.counts.inside + data.counts.outside;
  const counts = new Map();
  for (const node of nodes) counts.set(node.segment, (counts.get(node.segment) || 0) + 1);
  const parts = [tag("span", { class: "words" }, data.counts.text)];
  if (total) parts.unshift(shares(counts, nodes.length));
  document.getElementById("coverage").append(...parts);
}
function legend() {
  const holder = document.getElementById("legend");
  const shown = segments.filter((one) => one.kind === "tensorrt").slice(0, 6);
  for (const one of shown) holder.append(tag("span", { click: () => openSegment(one.name) }, tag("i", { class: "swatch", style: `--h:${hueOf(one.name)}` }), one.name));
  if (engineNames.length > shown.length) holder.append(tag("span", {}, `and ${engineNames.length - shown.length} more engines`));
  if (segments.some((one) => one.kind !== "tensorrt")) holder.append(tag("span", { click: () => openTab("torch") }, tag("i", { class: "swatch torch", style: "--h:32" }), "torch"));
  if (!segments.length) holder.remove();
}
function openSegment(name) {
  const box = view.tree.boxes.get("segment:" + name);
  if (box) { show(box); select(box); }
}
const press = (id, action) => document.getElementById(id).addEventListener("click", action);
press("zoom-in", () => zoom(1.3));
press("zoom-out", () => zoom(1 / 1.3));
press("fit", fit);
press("fold", () => { view.tree.foldAll(); for (const box of view.tree.boxes.values()) box.layout = null; view.tree.root.layout = null; draw(); fit(); });
press("unfold", () => { view.tree.unfoldLevel(); for (const box of view.tree.boxes.values()) box.layout = null; view.tree.root.layout = null; draw(); });
document.getElementById("grouping").addEventListener("change", (event) => regroup(event.target.value));
search.addEventListener("input", () => look_for(search.value));
search.addEventListener("keydown", (event) => { if (event.key === "Enter" && hits.length) goTo(hits[0].name); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") { if (document.activeElement === search) { search.value = ""; look_for(""); search.blur(); } else select(null); }
  if (event.target.closest("input, select")) return;
  if (event.key === "/") { event.preventDefault(); search.focus(); }
  else if (event.key === "+" || event.key === "=") zoom(1.3);
  else if (event.key === "-") zoom(1 / 1.3);
  else if (event.key === "0") fit();
});

header();
legend();
makeTabs();
regroup("segments");
openTab(data.torch.length ? "torch" : "overview");
new ResizeObserver(() => { if (!view.touched) fit(); }).observe(svg);
for (const name of ["pointerdown", "wheel"]) svg.addEventListener(name, () => { view.touched = true; }, { once: true, passive: true });
document.documentElement.dataset.ready = "yes";
