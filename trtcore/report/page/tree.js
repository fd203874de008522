// The report's data, and the tree of boxes that the graph is drawn as.
const data = JSON.parse(document.getElementById("data").textContent);
const MOST_CHILDREN = 40; // the layout of one box takes a tenth of a second at this size
const HUES = [152, 208, 268, 182, 232, 128, 300, 195];

const segments = data.segments.map((one, index) => ({ ...one, index }));
const engineNames = segments.filter((one) => one.kind === "tensorrt").map((one) => one.name);
const segmentOf = new Map(segments.map((one) => [one.name, one]));
const isTorch = (segment) => segmentOf.get(segment)?.kind !== "tensorrt";
const hueOf = (segment) => (isTorch(segment) ? 32 : HUES[engineNames.indexOf(segment) % HUES.length]);

const nodes = data.nodes.map((one, index) => ({
  ...one, index,
  reason: data.texts[one.reason], advice: data.texts[one.advice], candidates: data.candidates[one.candidates],
  path: data.texts[one.path], pack: data.texts[one.pack], source: data.texts[one.source], precision: data.texts[one.precision],
}));
const byName = new Map(nodes.map((one) => [one.name, one]));
for (const node of nodes) node.users = [];
for (const node of nodes) for (const name of node.inputs) byName.get(name)?.users.push(node.name);

function shortOp(op) {
  const parts = op.split(".");
  const name = parts.length > 1 ? parts[1] : op;
  return parts[0] === "aten" || parts.length === 1 ? name : parts[0] + "::" + name;
}

/** A box: an op, a model input or output, or a group of boxes. */
class Box {
  constructor(id, kind, label, parent) {
    Object.assign(this, { id, kind, label, parent, children: [], edges: [], ops: 0, share: new Map(), open: false });
    this.depth = parent ? parent.depth + 1 : 0;
  }
  *above() { for (let one = this; one; one = one.parent) yield one; }
}

class Tree {
  constructor(grouping) {
    this.grouping = grouping;
    this.root = new Box("", "group", data.model || "model", null);
    this.root.open = true;
    this.boxes = new Map();
    this.ofNode = new Map();
    this.addInputs();
    for (const node of nodes) this.addNode(node);
    this.addOutputs();
    this.tidy(this.root);
    this.connect();
    this.unfoldUpTo(45);
  }
  make(id, kind, label, parent) {
    const box = new Box(id, kind, label, parent);
    parent.children.push(box);
    this.boxes.set(id, box);
    return box;
  }
  addInputs() {
    for (const text of data.inputs) {
      const [name, type] = split(text);
      const box = this.make("in:" + name, "io", name, this.root);
      box.type = type;
      this.ofNode.set(name, box);
    }
  }
  addOutputs() {
    data.outputs.forEach((text, index) => {
      const [name, type] = split(text);
      const box = this.make("out:" + index, "io", data.outputs.length > 1 ? "output " + index : "output", this.root);
      box.type = type;
      box.takes = [name];
    });
  }
  group(id, label, parent, extra) {
    return this.boxes.get(id) || Object.assign(this.make(id, "group", label, parent), extra);
  }
  addNode(node) {
    let parent = this.root;
    let prefix = "";
    if (this.grouping === "segments") {
      prefix = "segment:" + node.segment;
      parent = this.group(prefix, node.segment, this.root, { segment: node.segment });
    }
    let path = "";
    for (const part of node.path ? node.path.split(".") : []) {
      path = path ? path + "." + part : part;
      parent = this.group(prefix + "/" + path, part, parent, { path });
    }
    const box = this.make("op:" + node.name, "op", shortOp(node.op), parent);
    Object.assign(box, { node, takes: node.inputs, segment: node.segment, ops: 1 });
    this.ofNode.set(node.name, box);
    for (const one of parent.above()) {
      one.ops += 1;
      one.share.set(node.segment, (one.share.get(node.segment) || 0) + 1);
    }
  }
  /** Groups in groups of one are one; long lists are cut into pieces that fold. */
  tidy(group) {
    for (let i = 0; i < group.children.length; i++) {
      let box = group.children[i];
      while (box.kind === "group" && !box.segment && box.children.length === 1 && box.children[0].kind === "group") {
        const only = box.children[0];
        this.boxes.delete(box.id);
        only.label = box.label + "." + only.label;
        only.parent = group;
        box = group.children[i] = only;
      }
      if (box.kind === "group") this.tidy(box);
    }
    if (group.children.length > MOST_CHILDREN) this.cut(group);
    this.setDepth(group);
  }
  cut(group) {
    const inner = group.children.filter((one) => one.kind !== "io");
    const size = Math.max(2, Math.ceil(inner.length / Math.max(2, Math.min(MOST_CHILDREN, Math.ceil(inner.length / 30)))));
    const kept = group.children.filter((one) => one.kind === "io");
    group.children = [];
    for (let from = 0; from < inner.length; from += size) {
      const some = inner.slice(from, from + size);
      const first = some[0].label, last = some[some.length - 1].label;
      const piece = this.make(`${group.id}#${from}`, "group", `${first} … ${last}`, group);
      piece.piece = true;
      for (const one of some) {
        one.parent = piece;
        piece.children.push(one);
        piece.ops += one.ops;
        for (const [name, count] of one.kind === "op" ? [[one.segment, 1]] : one.share) piece.share.set(name, (piece.share.get(name) || 0) + count);
      }
      if (piece.children.length > MOST_CHILDREN) this.cut(piece);
    }
    group.children.push(...kept.filter((one) => one.id.startsWith("in:")), ...kept.filter((one) => one.id.startsWith("out:")));
  }
  setDepth(group) {
    const queue = [group];
    while (queue.length) {
      const one = queue.pop();
      for (const child of one.children) { child.depth = one.depth + 1; queue.push(child); }
    }
  }
  /** Every edge, at the innermost group that holds both of its ends, between the two children there. */
  connect() {
    this.setDepth(this.root);
    for (const box of [...this.boxes.values()]) {
      for (const name of box.takes || []) {
        let a = this.ofNode.get(name), b = box;
        if (!a) continue;
        while (a.depth > b.depth) a = a.parent;
        while (b.depth > a.depth) b = b.parent;
        while (a.parent !== b.parent) { a = a.parent; b = b.parent; }
        if (a === b) continue;
        const group = a.parent;
        group.between ??= new Map();
        const key = a.id + "\u0000" + b.id;
        if (!group.between.has(key)) { const edge = { a, b, ends: [] }; group.between.set(key, edge); group.edges.push(edge); }
        group.between.get(key).ends.push([name, box]);
      }
    }
  }
  groups(open) { return [...this.boxes.values()].filter((one) => one.kind === "group" && one.open === open); }
  /** Unfold groups, outer ones first, as long as at most `most` boxes are to be seen. */
  unfoldUpTo(most) {
    let seen = this.root.children.length;
    let queue = this.root.children.filter((one) => one.kind === "group");
    while (queue.length) {
      const next = [];
      for (const group of queue) {
        if (seen + group.children.length - 1 > most) continue;
        seen += group.children.length - 1;
        group.open = true;
        next.push(...group.children.filter((one) => one.kind === "group"));
      }
      queue = next;
    }
  }
  unfoldLevel() {
    const shown = this.groups(false).filter((one) => [...one.above()].slice(1).every((up) => up.open));
    for (const group of shown.slice(0, 60)) group.open = true;
  }
  foldAll() { for (const group of this.groups(true)) group.open = false; }
  reveal(box) { for (const one of box.above()) if (one !== box) one.open = true; }
}

function split(text) {
  const at = text.indexOf(": ");
  return at < 0 ? [text, ""] : [text.slice(0, at), text.slice(at + 2)];
}
