'use strict';
// What all parts of the report share: the detections and objects, the threshold, class and filters that they follow.
(() => {
  const {data, el, unpack} = page;
  const names = data.classes.map((c) => c.class);
  const K = names.length;
  const A = data.arrays, L = A.levels;
  const D = Object.fromEntries(Object.entries(A.detections).map(([k, v]) => [k, unpack(v)]));
  const G = Object.fromEntries(Object.entries(A.objects).map(([k, v]) => [k, unpack(v)]));
  const toLevel = (score) => Math.min(L, Math.max(0, Math.ceil((score - A.low) / (A.high - A.low) * L - 1e-6)));
  const toScore = (level) => A.low + level / L * (A.high - A.low);
  const KINDS = ['Cls', 'Loc', 'Both', 'Dupe', 'Bkg', 'correct', 'correct', 'unseen'];
  const state = {level: toLevel(data.threshold), label: -1, shares: false};
  const followers = [];
  const follow = (f) => { followers.push(f); f(); };
  const changed = () => followers.forEach((f) => f());
  const sections = [];
  const section = (id, title, short, ...nodes) => sections.push({id, title, short, nodes});
  const para = (...text) => el('p', {class: 'muted'}, text);
  const fileOf = (i) => data.files[i] || data.ids[i];
  const filters = {cell: null};

  // cumulative counts by level, of all and of each class on demand: detections with at least that level
  const cache = new Map();
  function counts(label) {
    if (cache.has(label)) return cache.get(label);
    const tp = new Float64Array(L + 2), fp = new Float64Array(L + 2);
    for (let i = 0; i < D.level.length; i++) {
      if (label >= 0 && D.label[i] !== label) continue;
      if (D.state[i] === 1) tp[D.level[i]]++;
      else if (D.state[i] === 0) fp[D.level[i]]++;
    }
    for (let v = L - 1; v >= 0; v--) { tp[v] += tp[v + 1]; fp[v] += fp[v + 1]; }
    let objects = 0;
    for (let j = 0; j < G.label.length; j++) if (!G.ignored[j] && (label < 0 || G.label[j] === label)) objects++;
    const result = {tp, fp, objects};
    cache.set(label, result);
    return result;
  }
  function at(label, level) {
    const {tp, fp, objects} = counts(label);
    const [t, f] = [tp[level], fp[level]];
    return {tp: t, fp: f, fn: objects - t, objects, precision: t + f ? t / (t + f) : null, recall: objects ? t / objects : null,
      f1: t + f + objects ? 2 * t / (t + f + objects) : null, perImage: data.counts.images ? f / data.counts.images : null};
  }
  // the numbers that tests and consoles may ask for

  function classPicker(label, all, onchange) {
    const select = el('select', {'aria-label': label, onchange: () => onchange(Number(select.value))},
      el('option', {value: -1}, all), names.map((text, k) => el('option', {value: k}, text)));
    return select;
  }

  page.report = {names, K, A, L, D, G, toLevel, toScore, KINDS, state, filters, follow, changed, sections, section, para, counts, at, classPicker, fileOf};
})();
