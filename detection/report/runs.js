'use strict';
// The runs under a folder; two of them compared.
(() => {
  const {data, el, name, fixed, table, bars, layout, DASH} = page;
  const number = (key, label, digits = 3, title = '') => ({key, label, title, show: (v) => fixed(v, digits)});
  const columns = [{key: 'run', label: 'run', text: true}, number('AP', 'AP'), number('AP50', 'AP50'), number('VOC07_mAP', 'VOC07 mAP'),
    number('best_AP', 'best AP', 3, 'of all evaluations'), number('best_step', 'at step', 0), number('step', 'steps', 0), number('hours', 'hours', 2, 'of training steps'), number('seconds_per_step', 's a step'),
    {key: 'backbone', label: 'backbone', text: true, show: (v) => (v ? name(v) : DASH)}, {key: 'architecture', label: 'head', text: true, show: (v) => (v ? name(v) : DASH)}, {key: 'started', label: 'started', text: true, show: (v) => (v ? name(v) : DASH)}, number('seed', 'seed', 0), {key: 'commit', label: 'commit', text: true, show: (v) => (v ? name(v) : DASH)}];
  const list = table(columns, data.runs, {filter: 'find a run', csv: 'runs.csv', sort: ['AP', true]});
  const pick = (id, start) => { const s = el('select', {id, 'aria-label': id, onchange: draw}, data.runs.map((r, i) => el('option', {value: i}, r.run))); s.value = start; return s; };
  const box = el('div', {id: 'differences'});
  const first = pick('first', 0), second = pick('second', Math.min(1, data.runs.length - 1));
  function draw() {
    const [a, b] = [Number(first.value), Number(second.value)];
    const keys = [...new Set([...Object.keys(data.configs[a]), ...Object.keys(data.configs[b])])].filter((k) => data.configs[a][k] !== data.configs[b][k]);
    const metrics = ['AP', 'AP50', 'VOC07_mAP'].filter((k) => data.runs[a][k] !== null || data.runs[b][k] !== null);
    box.replaceChildren(
      metrics.length ? bars(metrics, [a, b].map((i) => ({name: data.runs[i].run, y: metrics.map((k) => data.runs[i][k])})), {title: 'results', y: [0, 1]}) : '',
      keys.length ? table([{key: 'key', label: 'key', text: true}, {key: 'a', label: data.runs[a].run, text: true, show: (v) => (v === undefined ? DASH : name(v))}, {key: 'b', label: data.runs[b].run, text: true, show: (v) => (v === undefined ? DASH : name(v))}],
        keys.map((k) => ({key: k, a: data.configs[a][k], b: data.configs[b][k]})), {}).node : el('p', {class: 'muted'}, 'the configurations are equal'));
  }
  draw();
  layout(`runs in ${data.root}`, null, [{id: 'runs', title: 'Runs', nodes: [list.node]},
    {id: 'compare', title: 'Differences of two', short: 'differences', nodes: [el('div', {class: 'controls'}, first, second), box]}]);
})();
