"use strict";
// Builds the page from the JSON beside it. Foreign text enters through text nodes only.
(() => {
  const doc = JSON.parse(document.getElementById("data").textContent);
  const narrow = window.matchMedia("(max-width: 700px)");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const NONE = "–";

  const element = (tag, attributes, ...children) => {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  // bdi keeps right-to-left text from reordering its neighbours.
  const foreign = (text) => element("bdi", {}, String(text));
  const copy = (value) => JSON.parse(JSON.stringify(value));
  const minus = (text) => text.replace("-", "−");
  // plotly reads markup in labels.
  const label = (text) => String(text).replace(/[&<>$]/g, (mark) => `&#${mark.charCodeAt(0)};`);

  // ---- selectors ---------------------------------------------------------------------------
  const radios = (name, legend, options, chosen, onChoose) => {
    const choices = element("div", { class: "choices" });
    options.forEach((text, i) => {
      const input = element("input", { type: "radio", name, value: String(i) });
      input.checked = i === chosen;
      input.addEventListener("change", () => onChoose(i));
      choices.append(element("label", {}, input, element("span", {}, foreign(text))));
    });
    return element("fieldset", { id: name }, element("legend", {}, legend), choices);
  };
  const dropdown = (name, legend, options, onChoose) => {
    const select = element("select", { id: name });
    options.forEach((text, i) => {
      select.append(element("option", { value: String(i) }, String(text)));
    });
    select.addEventListener("change", () => onChoose(select.selectedIndex));
    return element("label", { class: "control" }, legend, select);
  };

  // ---- figures -----------------------------------------------------------------------------
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const themed = (figure) => {
    const look = figure.layout.template.layout;
    look.font.color = colour("--ink");
    for (const axis of [look.xaxis, look.yaxis]) {
      axis.gridcolor = axis.linecolor = axis.zerolinecolor = colour("--grid");
    }
    look.hoverlabel = Object.assign({}, look.hoverlabel, {
      bgcolor: colour("--card"), bordercolor: colour("--muted"),
      font: Object.assign({}, look.hoverlabel.font, { color: colour("--ink") }),
    });
    if (narrow.matches) {
      // A drag scrolls the page; the numbers stand in the cells, so colour bars can go.
      figure.layout.dragmode = false;
      look.font.size = 10;
      for (const trace of figure.data) if (trace.type === "heatmap") trace.showscale = false;
    }
    return figure;
  };
  const CONFIG = {
    responsive: true, displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  const redraws = [];
  const draw = (host, figure) => {
    themed(figure);
    return Plotly.react(host, figure.data, figure.layout, CONFIG);
  };
  for (const query of [narrow, dark]) {
    query.addEventListener("change", () => redraws.forEach((redraw) => redraw()));
  }

  const figureBlock = (block, section) => {
    const panel = element("div", { class: "panel" });
    const host = element("div", { class: "plot", id: block.name + "-plot" });
    let chosen = 0;
    const redraw = () => draw(host, copy(block.variants[chosen].figure));
    if (block.variants.length > 1) {
      panel.append(element("div", { class: "controls" }, radios(
        block.name + "-choice", block.choice, block.variants.map((v) => v.label), 0,
        (i) => { chosen = i; redraw(); })));
    }
    panel.append(host);
    section.append(panel);
    redraws.push(redraw);
    return redraw;
  };

  // ---- the circuit of a fact ---------------------------------------------------------------
  // Fills the traces of the empty figure that plots/circuit.py made; the geometry is its own.
  const circuitTraces = (block, base, cell, count) => {
    const figure = copy(base);
    const traces = figure.data;
    const width = block.receivers.length;
    const shown = cell.edges.slice(0, count);
    const largest = Math.max(...cell.scores.map(Math.abs)) || 1;
    const used = new Map();
    const middles = traces[traces.length - 1];
    const epoch = label(cell.epoch);
    for (const trace of traces.slice(1, -2)) { trace.x = [null]; trace.y = [null]; }
    middles.x = [];
    middles.y = [];
    middles.customdata = [];
    shown.forEach((flat, i) => {
      const score = cell.scores[i];
      const from = block.senders[Math.floor(flat / width)];
      const to = block.receivers[flat % width];
      const bend = block.bend * Math.sqrt(Math.max(to[1] - from[1], 0.5));
      const middle = [(from[1] + to[1]) / 2, (from[2] + to[2]) / 2 + bend];
      const strength = block.bounds.findIndex((low) => Math.abs(score) / largest >= low);
      const kind = cell.kinds ? cell.kinds[i] : Number(score > 0);
      const trace = traces[1 + kind * block.bounds.length + strength];
      trace.x.push(from[1], middle[0], to[1], null);
      trace.y.push(from[2], middle[1], to[2], null);
      middles.x.push(middle[0]);
      middles.y.push(middle[1]);
      middles.customdata.push([label(from[0] + "->" + to[0]), score, i + 1, epoch]);
      used.set(from[0], from);
      used.set(to[0].split("<")[0], to);
    });
    const nodes = traces[traces.length - 2];
    nodes.text = [...used.keys()];
    nodes.x = [...used.values()].map((node) => node[1]);
    nodes.y = [...used.values()].map((node) => node[2]);
    return figure;
  };
  // On a narrow screen layers run upwards.
  const upright = (figure) => {
    for (const trace of figure.data) [trace.x, trace.y] = [trace.y, trace.x];
    const { xaxis, yaxis } = figure.layout;
    const layers = xaxis.tickvals.length;
    Object.assign(figure.layout, { xaxis: yaxis, yaxis: xaxis, height: 260 + 26 * layers });
    return figure;
  };

  const drawCircuit = (host, block, base, cell, count) => {
    const figure = circuitTraces(block, base, cell, count);
    return draw(host, narrow.matches ? upright(figure) : figure);
  };
  const fillStats = (list, cell) => {
    list.replaceChildren(...(cell ? cell.stats : [["", "No result for this fact and epoch"]])
      .map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, foreign(value)))));
  };
  const mostEdges = (block) =>
    Math.max(1, ...block.cells.flat().map((cell) => (cell ? cell.edges.length : 0)));
  const edgeCount = (name, most, count, onChoose) => {
    const range = element("input", {
      type: "range", id: name, min: String(Math.min(10, most)), max: String(most),
      step: "1", value: String(count),
    });
    range.addEventListener("input", () => onChoose(Number(range.value)));
    return range;
  };

  const circuitBlock = (block, section) => {
    const state = { fact: 0, epoch: block.epochs.length - 1, count: 60 };
    const panel = element("div", { class: "panel" });
    const controls = element("div", { class: "controls" });
    const stats = element("dl", { class: "stats", id: "circuit-stats", "aria-live": "polite" });
    const host = element("div", { class: "plot", id: "circuit-plot" });
    const body = element("tbody", { id: "circuit-edges" });
    const most = mostEdges(block);
    state.count = Math.min(state.count, most);
    const text = element("span", { id: "circuit-count-text" });
    const range = edgeCount("circuit-count", most, state.count,
      (count) => { state.count = count; show(); });
    const epochs = block.epochs.length > 16
      ? dropdown("circuit-epoch", "Epoch", block.epochs, (i) => { state.epoch = i; show(); })
      : radios("circuit-epoch", "Epoch", block.epochs, state.epoch,
        (i) => { state.epoch = i; show(); });
    const facts = dropdown("circuit-fact", "Fact", block.facts.map((fact) => fact.label),
      (i) => { state.fact = i; show(); });
    controls.append(facts, epochs, element("label", { class: "control" }, text, range));
    if (block.epochs.length > 16) epochs.querySelector("select").selectedIndex = state.epoch;
    const edges = element("details", {}, element("summary", {}, "The 15 strongest edges as a table"),
      element("div", { class: "scroll", tabindex: "0" }, element("table", { class: "edges" },
        element("thead", {}, element("tr", {}, ...["rank", "edge", block.score].map((name) =>
          element("th", { scope: "col", class: name === "edge" ? "" : "number" }, name)))), body)));
    panel.append(controls, stats, host, edges);
    section.append(panel);

    const show = () => {
      const cell = block.cells[state.fact][state.epoch];
      const count = cell ? Math.min(state.count, cell.edges.length) : 0;
      text.textContent = `Strongest ${count} of ${cell ? cell.n : 0} edges`;
      fillStats(stats, cell);
      const width = block.receivers.length;
      body.replaceChildren(...(cell ? cell.edges.slice(0, 15) : []).map((flat, i) =>
        element("tr", {}, element("td", { class: "number" }, String(i + 1)),
          element("td", {}, block.senders[Math.floor(flat / width)][0] + " → " +
            block.receivers[flat % width][0]),
          element("td", { class: "number" }, minus(cell.scores[i].toPrecision(4))))));
      const full = Object.assign({ epoch: block.epochs[state.epoch] },
        cell || { edges: [], scores: [] });
      return drawCircuit(host, block, block.base, full, count);
    };
    chooseFact = (id) => {
      const index = block.facts.findIndex((fact) => fact.id === id);
      if (index < 0) return;
      state.fact = facts.querySelector("select").selectedIndex = index;
      show();
      section.scrollIntoView();
      facts.querySelector("select").focus({ preventScroll: true });
    };
    redraws.push(show);
    return show;
  };
  let chooseFact = null;

  // ---- circuits of one fact by several methods, beside each other --------------------------
  const besideBlock = (block, section) => {
    const most = mostEdges(block);
    const state = { fact: 0, count: Math.min(60, most) };
    const panel = element("div", { class: "panel" });
    const text = element("span", { id: block.name + "-count-text" });
    const range = edgeCount(block.name + "-count", most, state.count,
      (count) => { state.count = count; show(); });
    panel.append(element("div", { class: "controls" },
      dropdown(block.name + "-fact", "Fact", block.facts.map((fact) => fact.label),
        (i) => { state.fact = i; show(); }),
      element("label", { class: "control" }, text, range)));
    const grid = element("div", { class: "beside" });
    const views = block.methods.map((method, i) => {
      const stats = element("dl", { class: "stats", "aria-live": "polite" });
      const host = element("div", { class: "plot", id: `${block.name}-plot-${i}` });
      grid.append(element("div", {}, element("h3", {}, foreign(method)), stats, host));
      return { stats, host };
    });
    panel.append(grid);
    section.append(panel);
    const show = () => {
      text.textContent = `Strongest ${state.count} edges`;
      return Promise.all(views.map(({ stats, host }, i) => {
        const cell = block.cells[state.fact][i];
        fillStats(stats, cell);
        const full = Object.assign({ epoch: block.epoch }, cell || { edges: [], scores: [] });
        return drawCircuit(host, block, block.bases[i], full, state.count);
      }));
    };
    redraws.push(show);
    return show;
  };

  // ---- tables ------------------------------------------------------------------------------
  const sortKey = (cell) => (cell !== null && typeof cell === "object" ? cell.v : cell);
  const compare = (a, b) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return typeof a === "number" && typeof b === "number" ? a - b : String(a) < String(b) ? -1 :
      String(a) > String(b) ? 1 : 0;
  };
  const cellText = (value, column) => {
    if (value === null) return NONE;
    if (typeof value === "object") return value.t;
    if (typeof value === "number") {
      const text = value.toFixed(column.digits ?? (Number.isInteger(value) ? 0 : 2));
      return Number(text) ? minus(text) : text.replace("-", "");
    }
    return value;
  };
  const tableCell = (value, column) => {
    const text = cellText(value, column);
    if (column.kind === "fact" && chooseFact) {
      const button = element("button", { type: "button", title: "Show its circuit" }, foreign(text));
      button.addEventListener("click", () => chooseFact(text));
      return element("td", { class: "text" }, button);
    }
    const cell = element("td", { class: column.kind || "text" }, foreign(text));
    if (value && value.is_marked) cell.classList.add("marked");
    if (value && value.note) cell.append(element("div", { class: "remark" }, foreign(value.note)));
    return cell;
  };
  const tableBlock = (block, section) => {
    const body = element("tbody", {});
    const fill = (rows) => body.replaceChildren(...rows.map((row) =>
      element("tr", {}, ...row.map((value, i) => tableCell(value, block.columns[i])))));
    const heads = block.columns.map((column, i) => {
      const button = element("button", { type: "button" }, foreign(column.label));
      const head = element("th", { scope: "col", class: column.kind || "text" }, button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const order = (a, b) => compare(sortKey(a[i]), sortKey(b[i])) * (down ? -1 : 1);
        fill([...block.rows].sort(order));
      });
      return head;
    });
    section.append(element("div", {
      class: "panel scroll", tabindex: "0", role: "region", "aria-label": block.title,
    }, element("table", { id: block.name + "-table" },
      element("thead", {}, element("tr", {}, ...heads)), body)));
    if (!block.rows.length) section.lastChild.append(element("p", { class: "caption" }, "Nothing to show."));
    return () => fill(block.rows);
  };

  const cardsBlock = (block, section) => {
    section.append(element("div", { class: "cards" }, ...block.cards.map((card) =>
      element("div", { class: "card" },
        element("div", { class: "label" }, foreign(card.label)),
        element("div", { class: "value" }, foreign(card.value)),
        element("div", { class: "remark" }, foreign(card.note || ""))))));
    return () => {};
  };

  // ---- the page ----------------------------------------------------------------------------
  const detail = (entry) => {
    const chips = entry.values.map((value) => {
      const chip = element("span", {}, foreign(value.t));
      if (value.note) chip.append(element("span", { class: "note" }, foreign(value.note)));
      if (value.mark) chip.append(element("span", { class: "mark" }, value.mark));
      return chip;
    });
    return [element("dt", {}, entry.label), element("dd", { class: "chips" }, ...chips)];
  };
  document.title = doc.title + " · kcircuits";
  document.getElementById("head").append(
    element("p", { class: "kind" }, doc.kind),
    element("h1", {}, foreign(doc.title)),
    element("dl", { class: "details" }, ...doc.details.flatMap(detail)),
    element("nav", { "aria-label": "Sections" }, ...doc.blocks.map((block) =>
      element("a", { href: "#" + block.name }, block.title))));
  document.getElementById("foot").append("Made by kcircuits. This page is complete in itself: " +
    "it loads nothing and sends nothing.");
  const BUILD = {
    figure: figureBlock, circuit: circuitBlock, beside: besideBlock, table: tableBlock,
    cards: cardsBlock,
  };
  const main = document.getElementById("main");
  const starts = doc.blocks.map((block) => {
    const section = element("section", { id: block.name },
      element("h2", {}, block.title), element("p", { class: "caption" }, foreign(block.caption)));
    main.append(section);
    return BUILD[block.kind](block, section);
  });
  Promise.all(starts.map((start) => start())).then(() => {
    document.documentElement.setAttribute("data-ready", "true");
  });
})();
