'use strict';
// Metrics, threshold, classes, curves, confusion matrix and kinds of errors.
(() => {
  const {data, el, name, fixed, percent, count, table, lines, bars} = page;
  const {names, K, A, L, D, G, toScore, state, filters, follow, changed, section, para, at, classPicker} = page.report;

  // ---- header and metrics
  function header() {
    const facts = Object.entries(data.header).filter(([, v]) => v !== null && v !== '');
    return [
      para(`${count(data.counts.images)} images, ${count(data.counts.objects)} objects of ${K} classes, ${count(data.counts.detections)} detections`),
      data.warnings.map((text) => el('p', {class: 'warn'}, name(text))),
      facts.length ? el('details', null, el('summary', null, 'what was evaluated, and how'),
        el('dl', {class: 'facts'}, facts.map(([k, v]) => [el('dt', null, k), el('dd', null, name(v))]))) : null,
    ];
  }
  function metricTiles() {
    const main = ['AP', 'AP50', 'AP75', 'VOC07_mAP', 'VOC_mAP', 'AR100'];
    const rows = data.metrics;
    const tiles = rows.filter((m) => main.includes(m.name)).map((m) => el('div', {class: 'tile', title: m.reason},
      el('span', null, m.name), el('b', null, fixed(m.value)),
      el('span', null, m.low === null ? (m.reason || ' ') : `${fixed(m.low)} to ${fixed(m.high)}`)));
    const columns = [
      {key: 'name', label: 'metric', text: true}, {key: 'value', label: 'value', show: (v) => fixed(v, 4)},
      {key: 'low', label: '95 % from', show: (v) => fixed(v)}, {key: 'high', label: 'to', show: (v) => fixed(v)},
      {key: 'reason', label: 'why undefined', text: true, show: (v) => v || ''}];
    section('metrics', 'Metrics', 'metrics',
      para('COCO’s twelve numbers and VOC’s AP at IoU 0.5, fractions from 0 to 1; “–” where a number is undefined.'),
      el('div', {class: 'tiles'}, tiles), el('details', null, el('summary', null, 'all metrics'), table(columns, rows, {csv: 'metrics.csv'}).node));
  }

  // ---- threshold
  function thresholdSection() {
    const range = el('input', {type: 'range', id: 'score', min: 0, max: 1000, step: 1, 'aria-label': 'score threshold'});
    const output = el('output', {for: 'score'});
    const picker = classPicker('class', 'all classes', (k) => { state.label = k; changed(); });
    picker.id = 'class';
    range.addEventListener('input', () => { state.level = Number(range.value) * (L / 1000); changed(); });
    const figures = el('div', {class: 'figures', id: 'figures', 'aria-live': 'polite'});
    const wanted = el('input', {type: 'number', min: 0, max: 1, step: 0.01, value: 0.9, 'aria-label': 'wanted value', style: {width: '5.5em'}});
    const what = el('select', {'aria-label': 'what is wanted'}, ['precision', 'recall'].map((t) => el('option', {value: t}, `${t} ≥`)));
    const note = el('span', {class: 'muted small', role: 'status'});
    function set(level) { state.level = level; changed(); }
    function find() {
      const goal = Number(wanted.value);
      let level = null;
      for (let v = 0; v <= L; v++) {
        const values = at(state.label, v);
        if (what.value === 'precision' && values.tp + values.fp && values.precision >= goal) { level = v; break; }
        if (what.value === 'recall' && values.recall >= goal) level = v;
      }
      note.textContent = level === null ? `no threshold reaches ${what.value} ${goal}` : '';
      if (level !== null) set(level);
    }
    function best() {
      let level = null, top = -1;
      for (let v = L; v >= 0; v--) { const f = at(state.label, v).f1; if (f !== null && f > top) { top = f; level = v; } }
      if (level !== null) set(level);
    }
    const chart = el('div');
    follow(() => {
      range.value = Math.round(state.level / (L / 1000));
      output.textContent = toScore(state.level).toFixed(3);
      const v = at(state.label, state.level);
      figures.replaceChildren(...[['precision', percent(v.precision)], ['recall', percent(v.recall)], ['F1', fixed(v.f1)], ['TP', count(v.tp)],
        ['FP', count(v.fp)], ['FN', count(v.fn)], ['FP an image', fixed(v.perImage, 2)]].map(([k, t]) => el('span', {'data-name': k}, `${k} `, el('b', null, t))));
      const xs = Array.from({length: 101}, (_, i) => i * L / 100), values = xs.map((x) => at(state.label, x));
      chart.replaceChildren(lines(['precision', 'recall', 'f1'].map((k) => ({name: k === 'f1' ? 'F1' : k, x: xs.map(toScore), y: values.map((q) => q[k])})),
        {title: `precision, recall and F1 by threshold, ${state.label < 0 ? 'all classes' : names[state.label]}`, xLabel: 'score threshold', y: [0, 1], x: [A.low, A.high], mark: toScore(state.level)}));
    });
    section('threshold', 'Threshold of the score', 'threshold',
      para('At IoU 0.5: detections with a lower score are left out. The confusion matrix, the gallery and the tables below follow it.'),
      el('div', {class: 'slider'}, el('div', {class: 'controls'}, el('label', null, 'score ≥ ', range, output), picker), figures),
      el('div', {class: 'controls'}, el('button', {type: 'button', onclick: best}, 'best F1'), what, wanted, el('button', {type: 'button', onclick: find}, 'set'), note),
      chart);
  }

  // ---- classes
  function classTable() {
    const columns = [{key: 'class', label: 'class', text: true},
      ...['AP', 'AP50', 'AP75', 'AR'].map((k) => ({key: k, label: k, show: (v) => fixed(v)})),
      {key: 'objects', label: 'objects', title: 'that count'}, {key: 'detections', label: 'detections'},
      ...['TP', 'FP', 'FN'].map((k) => ({key: k, label: k, title: 'at the threshold above'})),
      {key: 'best_F1', label: 'best F1', show: (v) => fixed(v)}, {key: 'threshold', label: 'at score', title: 'threshold of the best F1', show: (v) => fixed(v)}];
    const rows = () => data.classes.map((row, k) => { const v = at(k, state.level); return {...row, TP: v.tp, FP: v.fp, FN: v.fn}; });
    const shown = table(columns, data.classes, {filter: 'find a class', csv: 'classes.csv', sort: ['AP', false], limit: 100,
      click: (row) => { state.label = names.indexOf(row.class); document.getElementById('class').value = state.label; changed(); }});
    follow(() => shown.update(rows()));
    section('classes', 'Classes', 'classes', para('TP, FP and FN at the threshold above; a click on a row chooses the class for the threshold and the curves.'), shown.node);
  }

  // ---- curves
  function curveSection() {
    const recalls = Array.from({length: 101}, (_, i) => i / 100);
    const box = el('div', {class: 'charts'});
    follow(() => {
      const k = state.label;
      const all = Object.entries(data.curves.mean).map(([iou, y]) => ({name: `IoU ${iou}`, x: recalls, y}));
      const mean = lines(all, {title: 'mean over classes', xLabel: 'recall', yLabel: 'precision', y: [0, 1], x: [0, 1]});
      const own = k < 0 ? data.curves.precision.map((y, i) => ({name: names[i], x: recalls, y})).filter((_, i) => data.classes[i].objects).slice(0, 7)
        : [{name: names[k], x: recalls, y: data.curves.precision[k]}];
      const index = (i) => names.indexOf(own[i].name);
      const single = lines(own, {title: k < 0 ? (K > 7 ? 'the first seven classes (choose one above)' : 'classes') : `class at IoU 0.5`, xLabel: 'recall', yLabel: 'precision', y: [0, 1], x: [0, 1],
        tip: (i, p) => `${own[i].name}\nrecall ${recalls[p].toFixed(2)}, precision ${own[i].y[p].toFixed(3)}\nscore ≥ ${fixed(data.curves.score[index(i)][p])}`});
      box.replaceChildren(mean, single);
    });
    section('curves', 'Precision and recall', 'curves', para('COCO’s interpolated curves; point at one for the threshold.'), box);
  }

  // ---- confusion
  function confusionSection() {
    const box = el('div', {class: 'scroll'});
    const shares = el('button', {type: 'button', 'aria-pressed': 'false', onclick: () => { state.shares = !state.shares; shares.setAttribute('aria-pressed', state.shares); changed(); }}, 'shares of the row');
    const top = el('ol', {class: 'small'});
    follow(() => {
      const size = K + 1, matrix = new Float64Array(size * size);
      for (let i = 0; i < D.level.length; i++) if (D.level[i] >= state.level && D.row[i] <= K) matrix[D.row[i] * size + D.label[i]]++;
      for (let j = 0; j < G.label.length; j++) if (!G.ignored[j] && G.found_any[j] <= state.level) matrix[G.label[j] * size + K]++;
      page.matrix = Array.from({length: size}, (_, r) => Array.from(matrix.slice(r * size, (r + 1) * size)));
      // only classes in which something happens, most often confused first, where there are many
      let shown = names.map((_, k) => k).filter((k) => page.matrix[k].some((v) => v) || page.matrix.some((row) => row[k]));
      const wrong = (k) => page.matrix[k].reduce((s, v, c) => s + (c === k || c === K ? 0 : v), 0) + page.matrix.reduce((s, row, r) => s + (r === k || r === K ? 0 : row[k]), 0);
      const left = shown.length > 30 ? shown.length - 30 : 0;
      if (left) shown = shown.sort((a, b) => wrong(b) - wrong(a)).slice(0, 30).sort((a, b) => a - b);
      const order = [...shown, K], label = (k) => (k === K ? 'background' : names[k]);
      const rows = order.map((r) => {
        const sum = page.matrix[r].reduce((s, v) => s + v, 0);
        return el('tr', null, el('th', {scope: 'row', title: label(r)}, name(label(r))), order.map((c) => {
          const v = page.matrix[r][c], share = sum ? v / sum : 0;
          if (r === K && c === K) return el('td');
          const text = v === 0 ? '' : state.shares ? percent(share, 0) : count(v);
          return el('td', {class: r === c ? 'own' : null, style: {background: v ? `rgba(var(--cell), ${(0.06 + 0.6 * share).toFixed(3)})` : ''}},
            v ? el('button', {type: 'button', title: `${label(r)} detected as ${label(c)}: ${v}`, 'data-cell': `${r},${c}`, onclick: () => { filters.cell = [r, c]; changed(); document.getElementById('gallery')?.scrollIntoView(); }}, text) : '');
        }));
      });
      box.replaceChildren(el('table', {class: shown.length > 8 ? 'matrix many' : 'matrix'},
        el('thead', null, el('tr', null, el('th', null, 'object ↓ detected →'), order.map((c) => el('th', {scope: 'col', title: label(c)}, name(label(c)))))), el('tbody', null, rows)),
        left ? el('p', {class: 'muted small'}, `${left} more classes are confused less`) : '');
      const pairs = [];
      for (let r = 0; r < K; r++) for (let c = 0; c < K; c++) if (r !== c && page.matrix[r][c]) pairs.push([page.matrix[r][c], r, c]);
      top.replaceChildren(...pairs.sort((a, b) => b[0] - a[0]).slice(0, 10).map(([v, r, c]) => el('li', null, name(names[r]), ' taken for ', name(names[c]), `: ${count(v)}`)));
    });
    section('confusion', 'Confusion matrix', 'confusion',
      para('IoU 0.5, classes matched with one another; the last column are objects that nothing found, the last row detections on nothing. A click shows the images.'),
      el('div', {class: 'controls'}, shares), box, el('h3', null, 'most frequent confusions'), top);
  }

  // ---- errors
  function errorSection() {
    const kinds = Object.keys(data.errors.cost).filter((k) => k !== 'FP' && k !== 'FN');
    const meaning = {Cls: 'right place, wrong class', Loc: 'right class, badly placed', Both: 'wrong class and badly placed', Dupe: 'a second detection of a found object', Bkg: 'on nothing', Miss: 'object that nothing found', FP: 'all false positives', FN: 'all missed objects'};
    const gain = bars(kinds, [{name: 'AP50 gained', y: kinds.map((k) => data.errors.cost[k])}], {title: 'AP50 gained if all errors of a kind were fixed', tip: (_, k) => `${kinds[k]}: ${meaning[kinds[k]]}\n+${fixed(data.errors.cost[kinds[k]], 4)} AP50, ${count(data.errors.count[kinds[k]])} errors`});
    const sizes = Object.keys(data.errors.per_size);
    const bySize = bars(kinds, sizes.map((s) => ({name: s, y: kinds.map((k) => data.errors.per_size[s][k])})), {title: 'the same by size'});
    const stack = Object.entries(data.errors.stack);
    const steps = bars(stack.map(([k]) => k), [{name: 'area under the curve', y: stack.map(([, v]) => v)}], {title: 'COCO’s error analysis: AP as errors are forgiven', y: [0, 1],
      tip: (_, k) => `${stack[k][0]}: ${fixed(stack[k][1])}\n${['at IoU 0.75', 'at IoU 0.5', 'bad boxes forgiven', 'other classes forgiven', 'background forgiven', 'misses forgiven'][k]}`});
    const columns = [{key: 'class', label: 'class', text: true}, ...[...kinds, 'FP', 'FN'].map((k) => ({key: k, label: k, title: meaning[k], show: (v) => fixed(v)}))];
    const rows = Object.entries(data.errors.per_class).map(([k, v]) => ({class: k, ...v}));
    section('errors', 'Kinds of errors', 'errors',
      para('TIDE’s numbers (Bolya et al., 2020; tidecv’s rules): what AP50 would gain if one kind of error did not happen. ',
        `Base ${fixed(data.errors.base, 4)}; without any false positive +${fixed(data.errors.cost.FP, 4)}, without any miss +${fixed(data.errors.cost.FN, 4)}.`),
      el('div', {class: 'charts'}, gain, bySize, steps), el('h3', null, 'by class'),
      table(columns, rows, {filter: 'find a class', csv: 'errors.csv', sort: ['Miss', true], limit: 20}).node);
  }

  Object.assign(page.report, {header, metricTiles, thresholdSection, classTable, curveSection, confusionSection, errorSection});
})();
