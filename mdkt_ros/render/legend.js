// Class names, colours and counts; a click hides or shows a class, a double click shows it alone.

class Legend {
  constructor(meta, ids, onChange) {
    this.meta = meta;
    this.ids = ids;
    this.onChange = onChange;
    this.visible = new Uint8Array(256).fill(1);
    this.rows = new Map();
    const list = document.getElementById("legend");
    for (const id of ids) {
      const item = document.createElement("li"), button = document.createElement("button");
      const swatch = document.createElement("i"), name = document.createElement("span"), count = document.createElement("small");
      swatch.className = `swatch c${id}`;
      name.textContent = this.name(id);
      button.type = "button";
      button.dataset.class = id;
      button.append(swatch, name, count);
      button.addEventListener("click", (event) => (event.altKey ? this.solo(id) : this.toggle(id)));
      button.addEventListener("dblclick", () => this.solo(id));
      button.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || !event.shiftKey) return;
        event.preventDefault();
        this.solo(id);
      });
      item.append(button);
      list.append(item);
      this.rows.set(id, { button, count });
    }
    const groups = document.getElementById("groups");
    groups.hidden = document.getElementById("hint").hidden = ids.length === 0;
    this.chip(groups, "all", () => true);
    this.chip(groups, "none", () => false);
    for (const [group, members] of Object.entries(meta.groups)) {
      if (members.some((id) => this.rows.has(id))) this.chip(groups, group, (id) => members.includes(id));
    }
    this.refresh();
  }

  name(id) {
    return this.meta.names[id] ?? "not labelled";
  }

  chip(parent, name, wanted) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => this.show(wanted));
    parent.append(button);
  }

  toggle(id) {
    this.visible[id] = 1 - this.visible[id];
    this.refresh();
  }

  // The class alone; again, and all are back.
  solo(id) {
    const alone = this.ids.every((other) => Boolean(this.visible[other]) === (other === id));
    this.show((other) => alone || other === id);
  }

  show(wanted) {
    for (const id of this.ids) this.visible[id] = wanted(id) ? 1 : 0;
    this.refresh();
  }

  refresh() {
    for (const [id, { button }] of this.rows) button.setAttribute("aria-pressed", Boolean(this.visible[id]));
    this.onChange();
  }

  setCounts(counts) {
    for (const [id, { button, count }] of this.rows) {
      count.textContent = (counts[id] || 0).toLocaleString("en");
      button.classList.toggle("none", !counts[id]);
    }
  }
}

// What the colours mean where they are not classes.
function showKey(element, frame, mode) {
  element.replaceChildren();
  const ends = {
    probability: ["1", "0"],
    intensity: ["0", `≥ ${Number(frame.intensityTop?.toPrecision(3))}`],
    height: frame.heights.map((z) => `${z.toFixed(1)} m`),
  }[mode];
  element.hidden = !ends && mode !== "error";
  if (ends) {
    const canvas = document.createElement("canvas"), row = document.createElement("div");
    canvas.width = 256;
    canvas.height = 1;
    const context = canvas.getContext("2d");
    for (let i = 0; i < 256; i++) {
      context.fillStyle = `rgb(${rampTable[i].map(Math.round).join()})`;
      context.fillRect(i, 0, 1, 1);
    }
    row.className = "ends";
    for (const text of ends) row.append(Object.assign(document.createElement("span"), { textContent: text }));
    element.append(canvas, row);
  } else if (mode === "error") {
    const share = (n) => `${n.toLocaleString("en")} · ${(100 * n / Math.max(frame.scored, 1)).toFixed(1)} %`;
    for (const [kind, text, value] of [
      ["wrong", "wrong", share(frame.wrong)],
      ["right", "right", share(frame.scored - frame.wrong)],
      ["none", "no truth", (frame.total - frame.scored).toLocaleString("en")],
    ]) {
      const row = document.createElement("p"), swatch = document.createElement("i"), count = document.createElement("small");
      swatch.className = `swatch k-${kind}`;
      count.textContent = value;
      row.append(swatch, text, count);
      element.append(row);
    }
  }
}
