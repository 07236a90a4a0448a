'use strict';
// Shared by all pages: elements from text (never from markup), numbers, sortable tables, charts. Everything hangs on `page`.
const page = (() => {
  const data = JSON.parse(document.getElementById('data').textContent);

  /** An element: el('p', {class: 'muted'}, 'text', other). Strings become text nodes; functions listen ({onclick: f}). */
  function el(tag, attributes, ...children) {
    return fill(document.createElement(tag), attributes, children);
  }
  /** The same in SVG. */
  function svg(tag, attributes, ...children) {
    return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
  }
  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
      else if (key === 'style') Object.assign(node.style, value);
      else node.setAttribute(key, value === true ? '' : value);
    }
    add(node, children);
    return node;
  }
  function add(node, children) {
    for (const child of children.flat(Infinity)) {
      if (child !== null && child !== undefined) node.append(child instanceof Node ? child : String(child));
    }
  }
  /** A name from data, isolated so that right-to-left text and overrides do not reorder what is around it. */
  const name = (text) => el('bdi', null, String(text));

  const DASH = '–';
  const fixed = (value, digits = 3) => (value === null || value === undefined ? DASH : value.toFixed(digits));
  const percent = (value, digits = 1) =>
    value === null || value === undefined ? DASH : `${(100 * value).toFixed(digits)} %`;
  const count = (value) => (value === null || value === undefined ? DASH : value.toLocaleString('en-US'));

  const TYPES = {u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, f4: Float32Array};
  /** The typed array that packed() of page.py wrote. */
  function unpack(array) {
    const text = atob(array.base64);
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
    return new TYPES[array.type](bytes.buffer);
  }

  const tip = el('div', {class: 'tip', role: 'status', hidden: true});
  function showTip(event, text) {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const x = Math.min(event.clientX + 14, window.innerWidth - box.width - 8);
    const y = event.clientY + 16 + box.height > window.innerHeight ? event.clientY - box.height - 10 : event.clientY + 16;
    tip.style.left = `${Math.max(4, x)}px`;
    tip.style.top = `${Math.max(4, y)}px`;
  }
  const hideTip = () => { tip.hidden = true; };

  /** Offer text as a file. */
  function download(file, text) {
    const url = URL.createObjectURL(new Blob([text], {type: 'text/plain;charset=utf-8'}));
    const link = el('a', {href: url, download: file});
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
  function csvText(columns, rows) {
    const quote = (value) => {
      let text = value === null || value === undefined ? '' : String(value);
      if (typeof value === 'string' && /^[=+\-@\t\r]/.test(text)) text = `'${text}`; // a spreadsheet would run it
      return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const line = (values) => values.map(quote).join(',');
    return [line(columns.map((c) => c.label)), ...rows.map((r) => line(columns.map((c) => r[c.key])))].join('\n') + '\n';
  }

  /**
   * A table to sort by its headings, filter by text, and save as CSV.
   * columns: [{key, label, title, show(value, row) -> node or text, text: true for words}]; rows: objects.
   * options: filter (placeholder), csv (file name), limit (rows drawn at first), click(row), sort [key, descending].
   * Returns {node, update(rows)}.
   */
  function table(columns, rows, options = {}) {
    const limit = options.limit || 100;
    let [key, descending] = options.sort || [null, false];
    let shown = limit;
    const body = el('tbody');
    const note = el('span', {class: 'muted small', 'aria-live': 'polite'});
    const more = el('button', {type: 'button', onclick: () => { shown += 10 * limit; draw(); }}, 'show more');
    const input = options.filter
      ? el('input', {type: 'search', placeholder: options.filter, 'aria-label': options.filter, oninput: () => { shown = limit; draw(); }})
      : null;
    const heads = columns.map((column) => {
      const button = el('button', {type: 'button', title: column.title, onclick: () => {
        descending = key === column.key ? !descending : !column.text;
        key = column.key;
        draw();
      }}, column.label);
      return el('th', {scope: 'col', class: column.text ? 'text' : null}, button);
    });
    function selected() {
      const words = input ? input.value.trim().toLowerCase() : '';
      const texts = columns.filter((c) => c.text);
      let result = words ? rows.filter((r) => texts.some((c) => String(r[c.key]).toLowerCase().includes(words))) : rows.slice();
      if (key !== null) {
        const sign = descending ? -1 : 1;
        result.sort((a, b) => {
          const [x, y] = [a[key], b[key]];
          if (x === y) return 0;
          if (x === null || x === undefined) return 1;
          if (y === null || y === undefined) return -1;
          return typeof x === 'string' ? sign * x.localeCompare(y) : sign * (x - y);
        });
      }
      return result;
    }
    function draw() {
      const result = selected();
      heads.forEach((th, i) => {
        const active = columns[i].key === key;
        th.setAttribute('aria-sort', active ? (descending ? 'descending' : 'ascending') : 'none');
        th.firstChild.textContent = columns[i].label + (active ? (descending ? ' ▾' : ' ▴') : '');
      });
      body.replaceChildren(...result.slice(0, shown).map((row) => {
        const cells = columns.map((c) => {
          const value = row[c.key];
          const content = c.show ? c.show(value, row) : c.text ? name(value) : value === null || value === undefined ? DASH : String(value);
          return el('td', {class: c.text ? 'text' : null}, content);
        });
        const tr = el('tr', null, cells);
        if (options.click) {
          tr.tabIndex = 0;
          tr.style.cursor = 'pointer';
          tr.addEventListener('click', () => options.click(row));
          tr.addEventListener('keydown', (event) => { if (event.key === 'Enter') options.click(row); });
        }
        return tr;
      }));
      note.textContent = result.length > shown ? `${count(shown)} of ${count(result.length)} rows` : `${count(result.length)} rows`;
      more.hidden = result.length <= shown;
    }
    const save = options.csv
      ? el('button', {type: 'button', onclick: () => download(options.csv, csvText(columns, selected()))}, 'CSV')
      : null;
    const bar = input || save || rows.length > limit ? el('div', {class: 'controls'}, input, save, note) : null;
    draw();
    const node = el('div', null, bar,
      el('div', {class: 'scroll', tabindex: 0}, el('table', null, el('thead', null, el('tr', null, heads)), body)), more);
    return {node, update(newRows) { rows = newRows; draw(); }};
  }

  const COLOURS = ['--c1', '--c2', '--c3', '--c4', '--c5', '--c6', '--c7'];
  const colour = (i) => `var(${COLOURS[i % COLOURS.length]})`;
  const W = 420, H = 250, L = 44, B = 34, T = 10, R = 10;

  function ticks(low, high, wanted = 5) {
    const span = high - low || 1;
    const step = 10 ** Math.floor(Math.log10(span / wanted));
    const nice = [1, 2, 5, 10].map((m) => m * step).find((s) => span / s <= wanted + 0.5) || 10 * step;
    const result = [];
    for (let v = Math.ceil(low / nice - 1e-9) * nice; v <= high + nice * 1e-6; v += nice) result.push(Math.abs(v) < nice * 1e-9 ? 0 : v);
    return result;
  }
  const tickText = (v) => (Math.abs(v) >= 10000 ? `${v / 1000}k` : String(+v.toFixed(4)));

  function frame(options, xScale, yScale, xTicks) {
    const root = svg('svg', {viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': options.title});
    for (const v of ticks(...options.y)) {
      root.append(svg('line', {class: 'axis', x1: L, x2: W - R, y1: yScale(v), y2: yScale(v)}),
        svg('text', {x: L - 6, y: yScale(v) + 4, 'text-anchor': 'end'}, tickText(v)));
    }
    for (const [v, text] of xTicks) root.append(svg('text', {x: xScale(v), y: H - B + 15, 'text-anchor': 'middle'}, text));
    root.append(svg('text', {x: (L + W - R) / 2, y: H - 4, 'text-anchor': 'middle'}, options.xLabel || ''));
    if (options.yLabel) root.append(svg('text', {x: 0, y: 0, transform: `translate(11 ${(T + H - B) / 2}) rotate(-90)`, 'text-anchor': 'middle'}, options.yLabel));
    return root;
  }
  function wrap(options, root, entries) {
    const legend = entries && entries.length > 1
      ? el('div', {class: 'legend'}, entries.map((e) => el('span', null, el('i', {style: {background: e.colour}}), name(e.name)))) : null;
    return el('figure', null, el('figcaption', null, options.title), root, legend);
  }

  /**
   * Lines over a common axis. series: [{name, x: [], y: [], dashed}]; null breaks a line.
   * options: title, xLabel, yLabel, x [low, high], y [low, high], tip(series index, point index) -> text, mark (an x to show).
   */
  function lines(series, options) {
    const xs = series.flatMap((s) => s.x), ys = series.flatMap((s) => s.y).filter((v) => v !== null);
    options = {...options, x: options.x || [Math.min(...xs), Math.max(...xs)], y: options.y || [Math.min(0, ...ys), Math.max(...ys, 1e-9)]};
    const xScale = (v) => L + (v - options.x[0]) / (options.x[1] - options.x[0] || 1) * (W - L - R);
    const yScale = (v) => H - B - (v - options.y[0]) / (options.y[1] - options.y[0] || 1) * (H - B - T);
    const root = frame(options, xScale, yScale, ticks(...options.x).map((v) => [v, tickText(v)]));
    const entries = series.map((s, i) => ({name: s.name, colour: s.colour || colour(i)}));
    series.forEach((s, i) => {
      let path = '';
      s.x.forEach((x, k) => {
        if (s.y[k] === null || s.y[k] === undefined) return;
        const joined = path && s.y[k - 1] !== null && s.y[k - 1] !== undefined;
        path += `${joined ? 'L' : 'M'}${xScale(x).toFixed(1)} ${yScale(s.y[k]).toFixed(1)}`;
      });
      root.append(svg('path', {class: 'line', d: path, style: {stroke: entries[i].colour, strokeDasharray: s.dashed ? '5 4' : ''}}));
    });
    if (options.mark !== undefined && options.mark !== null) {
      root.append(svg('line', {x1: xScale(options.mark), x2: xScale(options.mark), y1: T, y2: H - B, style: {stroke: 'var(--muted)', strokeDasharray: '3 3'}}));
    }
    const dot = svg('circle', {r: 4, style: {display: 'none'}});
    root.append(dot);
    root.addEventListener('pointermove', (event) => {
      const box = root.getBoundingClientRect();
      const px = (event.clientX - box.left) / box.width * W, py = (event.clientY - box.top) / box.height * H;
      let best = null, near = Infinity;
      series.forEach((s, i) => s.x.forEach((x, k) => {
        if (s.y[k] === null || s.y[k] === undefined) return;
        const d = (xScale(x) - px) ** 2 + (yScale(s.y[k]) - py) ** 2;
        if (d < near) { near = d; best = [i, k]; }
      }));
      if (!best) return;
      const [i, k] = best, s = series[i];
      dot.setAttribute('cx', xScale(s.x[k]));
      dot.setAttribute('cy', yScale(s.y[k]));
      Object.assign(dot.style, {display: '', fill: entries[i].colour});
      showTip(event, options.tip ? options.tip(i, k) : `${s.name}\n${options.xLabel || 'x'} ${+s.x[k].toFixed(4)}: ${+s.y[k].toFixed(4)}`);
    });
    root.addEventListener('pointerleave', () => { hideTip(); dot.style.display = 'none'; });
    return wrap(options, root, entries);
  }

  /**
   * Bars, several series side by side or stacked. labels: one a group; series: [{name, y: [], low: [], high: []}]; low and
   * high draw an interval. options: title, xLabel, yLabel, y, stacked, tip(series, group) -> text, click(group).
   */
  function bars(labels, series, options) {
    const stack = (k) => series.reduce((sum, s) => sum + (s.y[k] || 0), 0);
    const tops = options.stacked ? labels.map((_, k) => stack(k)) : series.flatMap((s) => [...s.y, ...(s.high || [])]);
    const lows = options.stacked ? [0] : series.flatMap((s) => [...s.y, ...(s.low || [])]);
    const defined = (list) => list.filter((v) => v !== null && v !== undefined);
    options = {...options, y: options.y || [Math.min(0, ...defined(lows)), Math.max(...defined(tops), 1e-9)]};
    const step = (W - L - R) / Math.max(labels.length, 1);
    const xScale = (k) => L + (k + 0.5) * step;
    const yScale = (v) => H - B - (v - options.y[0]) / (options.y[1] - options.y[0] || 1) * (H - B - T);
    const every = Math.ceil(labels.length / Math.max(1, Math.floor((W - L - R) / Math.max(28, 6.2 * Math.max(0, ...labels.map((t) => t.length))))));
    const root = frame(options, xScale, yScale, labels.map((text, k) => [k, text]).filter(([k]) => k % every === 0));
    const entries = series.map((s, i) => ({name: s.name, colour: s.colour || colour(i)}));
    const width = options.stacked ? step * 0.8 : step * 0.8 / series.length;
    labels.forEach((label, k) => {
      let base = 0;
      series.forEach((s, i) => {
        const value = s.y[k];
        if (value === null || value === undefined) return;
        const from = options.stacked ? base : Math.max(0, options.y[0]), to = options.stacked ? base + value : value;
        base = to;
        const x = L + k * step + step * 0.1 + (options.stacked ? 0 : i * width);
        const top = yScale(Math.max(from, to)), height = Math.abs(yScale(from) - yScale(to));
        const bar = svg('rect', {x, y: top, width: Math.max(0.5, width - (width > 6 ? 1 : 0)), height: Math.max(height, 0), style: {fill: entries[i].colour, cursor: options.click ? 'pointer' : ''}});
        bar.addEventListener('pointermove', (event) => showTip(event, options.tip ? options.tip(i, k) : `${label}\n${s.name}: ${+value.toFixed(4)}`));
        bar.addEventListener('pointerleave', hideTip);
        if (options.click) bar.addEventListener('click', () => options.click(k));
        root.append(bar);
        if (s.low && s.low[k] !== null) {
          const c = x + width / 2;
          root.append(svg('path', {d: `M${c} ${yScale(s.low[k])}L${c} ${yScale(s.high[k])}`, style: {stroke: 'var(--text)', strokeWidth: 1.4}}));
        }
      });
    });
    return wrap(options, root, entries);
  }

  /** The page's frame: contents at the side, sections in the middle. sections: [{id, title, short, nodes}]. */
  function layout(title, subtitle, sections) {
    const links = sections.map((s) => el('a', {href: `#${s.id}`}, s.short || s.title));
    const nodes = sections.map((s) => el('section', {id: s.id, tabindex: -1, 'aria-labelledby': `${s.id}-title`},
      el('h2', {id: `${s.id}-title`}, s.title), s.nodes));
    document.body.append(
      el('div', {class: 'layout'}, el('nav', {class: 'contents', 'aria-label': 'contents'}, links),
        el('main', null, el('h1', null, name(title)), subtitle, nodes)),
      el('div', {class: 'tools'}, el('button', {type: 'button', id: 'theme', onclick: theme, title: 'light or dark (t)'}, 'light / dark')), tip);
    const seen = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        links.forEach((link) => { if (link.hash === `#${entry.target.id}`) link.setAttribute('aria-current', 'true'); else link.removeAttribute('aria-current'); });
      }
    }, {rootMargin: '0px 0px -80% 0px'});
    nodes.forEach((node) => seen.observe(node));
    document.addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
      if (['INPUT', 'SELECT', 'TEXTAREA'].includes(event.target.tagName)) return;
      if (event.key === 't') theme();
      if (event.key === 'j' || event.key === 'k') {
        const here = nodes.findLastIndex((node) => node.getBoundingClientRect().top < 40);
        const next = nodes[Math.min(Math.max(here + (event.key === 'j' ? 1 : -1), 0), nodes.length - 1)];
        next.scrollIntoView();
        next.focus({preventScroll: true});
      }
    });
  }
  function theme() {
    const root = document.documentElement;
    root.dataset.theme = root.dataset.theme === 'dark' ? 'light' : 'dark';
  }
  document.documentElement.dataset.theme = window.matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light';

  return {data, el, svg, name, fixed, percent, count, unpack, table, lines, bars, layout, showTip, hideTip, download, csvText, colour, DASH};
})();
