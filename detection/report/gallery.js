'use strict';
// The gallery, which follows threshold, class and matrix; the table of images; an image enlarged.
(() => {
  const {data, el, svg, name, fixed, count, table} = page;
  const {names, K, L, D, G, A, KINDS, state, filters, follow, changed, section, para, fileOf} = page.report;
  const [X, Y, W, H, LABEL, IGNORED, FOUND] = [0, 1, 2, 3, 4, 5, 6];
  const [LEVEL, STATE, KIND, ROW] = [5, 6, 7, 8];
  const view = {objects: true, detections: true, sort: 'lost', kind: '', size: '', shown: 12};
  const cards = new Map(data.cards.map((card) => [card.image, card]));

  /** Counts of each image at the threshold, of the chosen class. */
  function imageCounts() {
    const n = data.files.length, tp = new Int32Array(n), fp = new Int32Array(n), objects = new Int32Array(n);
    for (let i = 0; i < D.level.length; i++) {
      if (D.level[i] < state.level || (state.label >= 0 && D.label[i] !== state.label)) continue;
      if (D.state[i] === 1) tp[D.image[i]]++; else if (D.state[i] === 0) fp[D.image[i]]++;
    }
    for (let j = 0; j < G.label.length; j++) if (!G.ignored[j] && (state.label < 0 || G.label[j] === state.label)) objects[G.image[j]]++;
    return {tp, fp, objects};
  }

  const SIZES = {small: [0, 1024], medium: [1024, 9216], large: [9216, Infinity]};
  const inSize = (box) => !view.size || (box[W] * box[H] >= SIZES[view.size][0] && box[W] * box[H] < SIZES[view.size][1]);
  const ofClass = (box) => state.label < 0 || box[LABEL] === state.label;
  const missed = (o) => !o[IGNORED] && o[FOUND] <= state.level;
  const kindOf = (d) => (d[STATE] === 1 ? 'correct' : d[STATE] === 2 ? 'ignored' : KINDS[d[KIND]]);
  const shownDetection = (d) => d[LEVEL] >= state.level;

  function inCell(card, [r, c]) {
    if (c === K) { // missed in the sense of the matrix: nothing of any class on it
      for (let j = 0; j < G.label.length; j++) if (G.image[j] === card.image && G.label[j] === r && !G.ignored[j] && G.found_any[j] <= state.level) return true;
      return false;
    }
    return card.detections.some((d) => shownDetection(d) && d[LABEL] === c && d[ROW] === r);
  }
  function passes(card) {
    if (filters.cell && !inCell(card, filters.cell)) return false;
    if (state.label >= 0 && !card.objects.some(ofClass) && !card.detections.some((d) => ofClass(d) && shownDetection(d))) return false;
    if (view.kind === 'Miss') return card.objects.some((o) => missed(o) && ofClass(o) && inSize(o));
    if (view.kind) return card.detections.some((d) => shownDetection(d) && ofClass(d) && inSize(d) && kindOf(d) === view.kind);
    return !view.size || card.objects.some((o) => inSize(o) && ofClass(o));
  }

  function drawing(card, large, mark) {
    const [width, height] = card.size, size = Math.max(width, height) / (large ? 55 : 26);
    const root = svg('svg', {viewBox: `0 0 ${width} ${height}`, 'aria-hidden': true});
    if (card.thumbnail) root.append(svg('image', {href: card.thumbnail, width, height, preserveAspectRatio: 'none'}));
    const put = (box, kind, text) => {
      root.append(svg('rect', {class: `box ${kind}`, x: box[X], y: box[Y], width: box[W], height: box[H]}, svg('title', null, text)));
      if (large) root.append(svg('text', {x: box[X] + 2, y: Math.max(box[Y] - 3, size), style: {fontSize: `${size}px`}}, text));
    };
    if (view.objects) card.objects.forEach((o) => { if (ofClass(o)) put(o, o[IGNORED] ? 'ig' : missed(o) ? 'miss' : 'gt', names[o[LABEL]] + (o[IGNORED] ? ' (ignored)' : missed(o) ? ' (missed)' : '')); });
    if (view.detections) card.detections.forEach((d) => { if (shownDetection(d) && ofClass(d)) put(d, ['fp', 'tp', 'ig'][d[STATE]], `${names[d[LABEL]]} ${(A.low + d[LEVEL] / L * (A.high - A.low)).toFixed(2)}${d[STATE] === 0 ? ` ${kindOf(d)}` : ''}`); });
    if (mark) root.append(svg('rect', {class: 'box fp', x: mark[0], y: mark[1], width: mark[2], height: mark[3], style: {strokeWidth: 4}}));
    return root;
  }

  // ---- an image enlarged
  const dialog = el('dialog', {'aria-label': 'image'});
  document.body.append(dialog);
  let order = [], position = -1, marked = null;
  function fillDialog() {
    const card = cards.get(order[position]);
    const step = (by) => { position = (position + by + order.length) % order.length; marked = null; fillDialog(); };
    dialog.replaceChildren(
      el('div', {class: 'controls'}, el('b', null, name(fileOf(card.image))), el('span', {class: 'muted small'}, `${position + 1} of ${order.length}`),
        el('button', {type: 'button', onclick: () => step(-1), title: 'left arrow'}, '←'), el('button', {type: 'button', onclick: () => step(1), title: 'right arrow'}, '→'),
        toggle('objects', 'ground truth (g)'), toggle('detections', 'detections (d)'), el('button', {type: 'button', onclick: () => dialog.close()}, 'close')),
      el('div', {class: 'frame', style: {background: '#3a3f46'}}, drawing(card, true, marked)), key());
    dialog.onkeydown = (event) => {
      if (event.key === 'ArrowRight') step(1);
      if (event.key === 'ArrowLeft') step(-1);
      if (event.key === 'g' || event.key === 'd') { const what = event.key === 'g' ? 'objects' : 'detections'; view[what] = !view[what]; fillDialog(); changed(); }
    };
  }
  function zoom(image, mark, list) {
    if (!cards.has(image)) { page.report.say(`${fileOf(image)} is not among the ${data.cards.length} images of this page`); return; }
    order = list || [image];
    position = order.indexOf(image);
    marked = mark || null;
    fillDialog();
    if (!dialog.open) dialog.showModal();
  }
  const key = () => el('div', {class: 'legend key'}, [['#35d07f', 'correct'], ['#ffb000', 'false positive'], ['#ff5a36', 'missed object'], ['#bbb', 'found object'], ['#9aa4ae', 'ignored']].map(([c, t]) => el('span', null, el('i', {style: {borderColor: c}}), t)));
  function toggle(what, text) {
    const button = el('button', {type: 'button', 'aria-pressed': String(view[what]), 'data-toggle': what, onclick: () => { view[what] = !view[what]; button.setAttribute('aria-pressed', view[what]); if (dialog.open) fillDialog(); changed(); }}, text);
    return button;
  }

  function gallerySection() {
    const grid = el('div', {class: 'gallery', id: 'cards'});
    const note = el('p', {class: 'muted small', id: 'gallery-note', 'aria-live': 'polite'});
    page.report.say = (text) => { note.textContent = text; note.scrollIntoView({block: 'center'}); };
    const select = (label, options, onchange) => el('select', {'aria-label': label, onchange: (event) => { onchange(event.target.value); view.shown = 12; changed(); }}, options.map(([v, t]) => el('option', {value: v}, t)));
    const sort = select('order', [['lost', 'costs most AP50'], ['fp', 'most false positives'], ['fn', 'most misses'], ['f1', 'lowest F1'], ['name', 'name']], (v) => { view.sort = v; });
    const kind = select('kind of error', [['', 'any kind of error'], ['Miss', 'missed object'], ['Cls', 'wrong class (Cls)'], ['Loc', 'badly placed (Loc)'], ['Both', 'both'], ['Dupe', 'duplicate (Dupe)'], ['Bkg', 'on nothing (Bkg)']], (v) => { view.kind = v; });
    const size = select('size', [['', 'any size'], ['small', 'small'], ['medium', 'medium'], ['large', 'large']], (v) => { view.size = v; });
    const clear = el('button', {type: 'button', id: 'clear', onclick: () => { filters.cell = null; changed(); }}, '');
    const more = el('button', {type: 'button', onclick: () => { view.shown += 24; changed(); }}, 'show more');
    const toggles = [toggle('objects', 'ground truth'), toggle('detections', 'detections')];
    follow(() => {
      toggles.forEach((b) => b.setAttribute('aria-pressed', view[b.dataset.toggle]));
      const {tp, fp, objects} = imageCounts();
      const f1 = (i) => (tp[i] + fp[i] + objects[i] ? 2 * tp[i] / (tp[i] + fp[i] + objects[i]) : 1);
      const value = {lost: (i) => -data.images.lost[i], fp: (i) => -fp[i], fn: (i) => tp[i] - objects[i], f1, name: null}[view.sort];
      const list = data.cards.filter(passes).sort((a, b) => (value ? value(a.image) - value(b.image) : fileOf(a.image).localeCompare(fileOf(b.image))));
      const ids = list.map((card) => card.image);
      const label = (k) => (k === K ? 'background' : names[k]);
      clear.hidden = !filters.cell;
      clear.textContent = filters.cell ? `${label(filters.cell[0])} detected as ${label(filters.cell[1])} ✕` : '';
      note.textContent = `${count(list.length)} of the ${count(data.cards.length)} images in this page${data.files.length > data.cards.length ? ` (of ${count(data.files.length)}, the worst)` : ''}`
        + (data.readable ? '' : '; without image files: boxes alone');
      grid.replaceChildren(...list.slice(0, view.shown).map((card) => {
        const i = card.image;
        return el('button', {type: 'button', class: 'card', 'data-image': i, onclick: () => zoom(i, null, ids), 'aria-label': `enlarge ${fileOf(i)}`},
          el('span', {class: 'frame', style: {display: 'block'}}, drawing(card, false)),
          el('span', {class: 'words'}, name(fileOf(i)), el('br'), el('span', {class: 'muted'}, `TP ${tp[i]}, FP ${fp[i]}, FN ${objects[i] - tp[i]}, F1 ${f1(i).toFixed(2)}, costs ${data.images.lost[i].toFixed(4)}`)));
      }));
      more.hidden = list.length <= view.shown;
    });
    section('gallery', 'Images', 'images', para('The images that go worst, at the threshold and for the class chosen above. “Costs”: what AP50 would gain without the image, to first order.'),
      el('div', {class: 'controls'}, sort, kind, size, toggles, clear), key(), note, grid, more);
  }

  function imageTable() {
    const columns = [{key: 'file', label: 'image', text: true}, {key: 'objects', label: 'objects'}, {key: 'TP', label: 'TP'}, {key: 'FP', label: 'FP'}, {key: 'FN', label: 'FN'},
      {key: 'F1', label: 'F1', show: (v) => fixed(v)}, {key: 'lost', label: 'costs AP50', title: 'what AP50 would gain without the image, to first order', show: (v) => fixed(v, 5)}];
    const shown = table(columns, [], {filter: 'find an image', csv: 'images.csv', sort: ['lost', true], limit: 25, click: (row) => zoom(row.image)});
    follow(() => {
      const {tp, fp, objects} = imageCounts();
      shown.update(data.files.map((_, i) => ({image: i, file: fileOf(i), objects: objects[i], TP: tp[i], FP: fp[i], FN: objects[i] - tp[i], F1: tp[i] + fp[i] + objects[i] ? 2 * tp[i] / (tp[i] + fp[i] + objects[i]) : 1, lost: data.images.lost[i]})));
    });
    section('table', 'Every image', 'every image', para('At the threshold and for the class chosen above.'), shown.node);
  }

  Object.assign(page.report, {gallerySection, imageTable, zoom});
})();
