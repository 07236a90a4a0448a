'use strict';
// Comparison, stages, parts of the data, boxes, calibration, doubtful labels, slices, drift and training.
(() => {
  const {data, el, name, fixed, percent, count, table, lines, bars, download, DASH} = page;
  const {names, section, para, state, changed, follow} = page.report;
  const signed = (v, digits = 3) => (v === null || v === undefined ? DASH : `${v > 0 ? '+' : ''}${v.toFixed(digits)}`);

  function compareSection() {
    if (!data.compare.length) return;
    const nodes = data.compare.map((other) => {
      const rows = Object.entries(other.metrics).map(([k, d]) => ({metric: k, ...d,
        says: d.low === null ? '' : d.low > 0 ? 'better' : d.high < 0 ? 'worse' : 'not told apart'}));
      const classes = Object.entries(other.classes).map(([k, v]) => ({class: k, difference: v}));
      const kinds = Object.keys(other.errors);
      return el('div', {'data-compare': other.name}, el('h3', null, 'beside ', name(other.name)),
        para(`Better on ${count(other.won)} images, worse on ${count(other.lost)}, equal on ${count(other.equal)} (F1 at each detector’s own best threshold).`),
        table([{key: 'metric', label: 'metric', text: true}, {key: 'difference', label: 'difference', show: (v) => signed(v, 4)},
          {key: 'low', label: '95 % from', show: (v) => signed(v, 4)}, {key: 'high', label: 'to', show: (v) => signed(v, 4)},
          {key: 'share_better', label: 'better in', title: 'share of the bootstrap replicates', show: (v) => percent(v, 0)}, {key: 'says', label: '', text: true}], rows, {}).node,
        el('div', {class: 'charts'}, bars(kinds, [{name: 'difference', y: kinds.map((k) => other.errors[k])}], {title: 'difference of what each kind of error costs (lower is better)'})),
        el('details', null, el('summary', null, 'by class'), table([{key: 'class', label: 'class', text: true}, {key: 'difference', label: 'AP difference', show: (v) => signed(v)}], classes, {filter: 'find a class', csv: 'compare-classes.csv', sort: ['difference', false], limit: 30}).node),
        el('details', null, el('summary', null, 'images won and lost'), table([{key: 'file', label: 'image', text: true}, {key: 'F1', label: 'F1', show: (v) => fixed(v)}, {key: 'other', label: 'the other’s', show: (v) => fixed(v)}, {key: 'difference', label: 'difference', show: (v) => signed(v)}], other.images, {csv: 'compare-images.csv', sort: ['difference', false], limit: 20, click: (row) => page.report.zoom(row.image)}).node));
    });
    section('compare', 'Comparison', 'comparison', para(`Differences are this evaluation less the other; 95 % intervals from a paired bootstrap over images (${data.replicates} replicates).`), nodes);
  }

  function diagnosisSection() {
    const d = data.diagnosis;
    if (!d || !d.objects) return;
    const meaning = {'no anchor': 'no anchor is near it: other sizes or shapes', 'no proposal': 'the RPN proposed nothing on it', 'scored as background': 'a proposal was on it, and called background',
      'wrong class': 'a proposal was on it, and called another class', 'badly refined': 'its class was seen, the box does not fit', 'below threshold': 'its class was most probable, and the score too low',
      'suppressed by NMS': 'a better box of its class stood in the way', 'beyond the limit': 'too many detections in the image', 'found another object': 'its box was matched to a neighbour'};
    const stages = Object.entries(d.stages).filter(([, v]) => v), sizes = Object.keys(d.by_size);
    const lost = bars(stages.map(([k]) => k), sizes.map((s) => ({name: s, y: stages.map(([k]) => d.by_size[s].stages[k])})), {title: 'missed objects by the stage that lost them', stacked: true, tip: (i, k) => `${stages[k][0]}: ${stages[k][1]}\n${meaning[stages[k][0]]}`});
    const recall = lines([...d.numbers.map((n) => ({name: `${n} proposals`, x: d.ious, y: d.proposals[n]})), {name: 'anchors', x: d.ious, y: d.anchors, dashed: true}], {title: 'objects with a proposal, and with an anchor', xLabel: 'IoU', y: [0, 1]});
    const bySize = bars(sizes, d.numbers.filter((n) => n >= 100).map((n) => ({name: `${n} proposals`, y: sizes.map((s) => d.by_size[s].proposals[n][0])})).concat({name: 'anchors', y: sizes.map((s) => d.by_size[s].anchors[0])}), {title: 'the same by size, IoU 0.5', y: [0, 1]});
    const nms = d.nms && d.nms.length ? lines(['AP', 'AP50'].map((k) => ({name: k, x: d.nms.map((r) => r.iou), y: d.nms.map((r) => r[k])})), {title: 'AP by the IoU above which NMS drops a box', xLabel: 'nms_iou', mark: d.nms.find((r) => r.used)?.iou}) : null;
    const rows = stages.map(([k, v]) => ({stage: k, objects: v, share: v / d.missed, says: meaning[k]}));
    section('stages', 'Where objects are lost', 'stages',
      para(`${count(d.missed)} of ${count(d.objects)} objects have no detection at IoU ${d.iou} with a score above ${d.score_threshold}; each is counted at the stage of the detector that lost it.`),
      table([{key: 'stage', label: 'stage', text: true}, {key: 'objects', label: 'objects'}, {key: 'share', label: 'share', show: (v) => percent(v)}, {key: 'says', label: 'which means', text: true}], rows, {}).node,
      el('div', {class: 'charts'}, lost, recall, bySize, nms),
      d.seconds ? para('Seconds an image: ', Object.entries(d.seconds).map(([k, v]) => `${k} ${v.toFixed(3)}`).join(', ')) : null);
  }

  function edge(v) { return v >= 10 ? String(Math.round(v)) : String(+v.toFixed(2)); }
  function binSection() {
    const titles = {side: 'size: root of the area, pixels', aspect: 'shape: height over width', crowding: 'crowding: highest IoU with another object', objects: 'objects in the image', border: 'distance to the edge, in box sides'};
    const charts = Object.entries(titles).map(([key, title]) => {
      const rows = data.bins[key], labels = rows.map((b) => (b.high === null ? `${edge(b.low)}+` : `${edge(b.low)}–${edge(b.high)}`));
      if (!rows.some((b) => b.objects)) return null;
      const series = [{name: 'recall, IoU 0.5', y: rows.map((b) => b.recall)}, {name: 'recall, IoU 0.75', y: rows.map((b) => b.recall75)}];
      if (rows.some((b) => 'AP50' in b)) series.push({name: 'AP50', y: rows.map((b) => b.AP50)});
      return bars(labels, series, {title, y: [0, 1], tip: (i, k) => `${labels[k]}: ${count(rows[k].objects)} objects\n${series[i].name} ${fixed(series[i].y[k])}`});
    });
    const ignored = data.bins.ignored;
    section('parts', 'Size, shape, crowding, place', 'sizes', para('Recall without a threshold, by what kind of object it is. ',
      ignored.objects ? `${count(ignored.objects)} crowd or difficult objects do not count; ${count(ignored.detected)} of them are detected.` : ''), el('div', {class: 'charts'}, charts));
  }

  function boxSection() {
    const b = data.boxes;
    if (!b.count) return;
    const labels = b.iou.map((_, i) => (0.5 + i * 0.05).toFixed(2));
    const quartiles = (rows) => ['dx', 'dy', 'dw', 'dh'].map((k, i) => (rows.length ? rows[i] : [null, null, null]));
    const sizes = Object.entries(b.by_size).filter(([, v]) => v.count);
    const reach = Math.max(0.05, ...sizes.flatMap(([, v]) => v.bias.flatMap((q) => q.map(Math.abs))));
    const chart = bars(['dx', 'dy', 'dw', 'dh'], sizes.map(([k, v]) => ({name: {s: 'small', m: 'medium', l: 'large'}[k], y: quartiles(v.bias).map((q) => q[0]), low: quartiles(v.bias).map((q) => q[1]), high: quartiles(v.bias).map((q) => q[2])})), {title: 'median offset, with quartiles, by size', y: [-reach, reach]});
    const rows = Object.entries(b.by_class).filter(([, v]) => v.count).map(([k, v]) => ({class: k, count: v.count, dx: v.bias[0][0], dy: v.bias[1][0], dw: v.bias[2][0], dh: v.bias[3][0]}));
    section('boxes', 'Boxes', 'boxes', para(`True positives at IoU 0.5: mean IoU ${fixed(b.mean_iou)}. Offsets are in the object’s width and height: dx and dy positive to the right and down, dw and dh positive where the box is too large.`),
      el('div', {class: 'charts'}, bars(labels, [{name: 'true positives', y: b.iou}], {title: 'IoU of true positives', xLabel: 'IoU from'}), chart),
      el('details', null, el('summary', null, 'by class'), table([{key: 'class', label: 'class', text: true}, {key: 'count', label: 'true positives'}, ...['dx', 'dy', 'dw', 'dh'].map((k) => ({key: k, label: k, title: 'median', show: (v) => signed(v)}))], rows, {filter: 'find a class', csv: 'offsets.csv'}).node));
  }

  function calibrationSection() {
    const c = data.calibration;
    const middle = c.score.map((v, i) => (v === null ? (c.edges[i] + c.edges[i + 1]) / 2 : v));
    const reliability = lines([{name: 'precision', x: middle, y: c.precision}, {name: 'calibrated', x: [0, 1], y: [0, 1], dashed: true}], {title: 'precision by score', xLabel: 'mean score', y: [0, 1], x: [0, 1],
      tip: (i, k) => (i ? 'score = precision' : `${count(c.count[k])} detections\nmean score ${fixed(c.score[k])}, precision ${fixed(c.precision[k])}`)});
    const h = c.histogram, labels = h.true.map((_, i) => (i / h.true.length).toFixed(2));
    const rows = Object.entries(c.per_class).filter(([, v]) => v.detections).map(([k, v]) => ({class: k, ...v}));
    section('calibration', 'Calibration', 'calibration', para(`Expected calibration error ${fixed(c.ECE, 4)}, largest ${fixed(c.worst)}: how far the score is from the fraction that is right.`),
      el('div', {class: 'charts'}, reliability, bars(labels, [{name: 'true', y: h.true, colour: 'var(--c3)'}, {name: 'false', y: h.false, colour: 'var(--c2)'}], {title: 'scores of true and false positives', stacked: true, xLabel: 'score from'})),
      el('details', null, el('summary', null, 'by class'), table([{key: 'class', label: 'class', text: true}, {key: 'ECE', label: 'ECE', show: (v) => fixed(v, 4)}, {key: 'detections', label: 'detections'}], rows, {filter: 'find a class', csv: 'calibration.csv', sort: ['ECE', true]}).node));
  }

  function labelSection() {
    const l = data.labels, total = l.count.missing + l.count['wrong class'] + l.count['badly placed'];
    const asCoco = () => {
      const images = [...new Set(l.rows.map((r) => r.image))];
      return JSON.stringify({images: images.map((i) => ({id: l.rows.find((r) => r.image === i).image_id, file_name: data.files[i]})),
        annotations: l.rows.map((r, k) => ({id: k + 1, image_id: r.image_id, category_id: r.category_id, bbox: r.bbox, area: r.bbox[2] * r.bbox[3], iscrowd: 0, score: r.score, suspicion: r.kind, annotation: r.annotation})),
        categories: [...new Map(l.rows.map((r) => [r.category_id, r.class]))].map(([id, text]) => ({id, name: text}))}, null, 1);
    };
    const list = () => [...new Set(l.rows.map((r) => r.file || r.image_id))].join('\n') + '\n';
    const body = total ? [
      el('div', {class: 'controls'}, el('button', {type: 'button', onclick: () => download('label-errors.json', asCoco())}, 'COCO JSON'), el('button', {type: 'button', onclick: () => download('label-errors.txt', list())}, 'list of files')),
      table([{key: 'kind', label: 'annotation is', text: true}, {key: 'class', label: 'detected', text: true}, {key: 'annotated_class', label: 'annotated', text: true, show: (v) => (v ? name(v) : DASH)}, {key: 'score', label: 'score', show: (v) => fixed(v)}, {key: 'iou', label: 'IoU', show: (v) => fixed(v, 2)}, {key: 'file', label: 'image', text: true, show: (v, row) => name(v || row.image_id)}], l.rows, {filter: 'find', csv: 'label-errors.csv', limit: 15, click: (row) => page.report.zoom(row.image, row.bbox)}).node] : null;
    section('labels', 'Annotations in doubt', 'labels', para(`A detection with a score of at least ${l.threshold} says that an annotation is missing (${count(l.count.missing)}), has the wrong class (${count(l.count['wrong class'])}) or is badly placed (${count(l.count['badly placed'])}). A click shows the image where it is in the page.`), body);
  }

  function sliceSection() {
    for (const [field, rows] of Object.entries(data.slices)) {
      const columns = [{key: 'value', label: field, text: true}, {key: 'images', label: 'images'}, {key: 'objects', label: 'objects'}, ...['AP', 'AP50', 'AP75', 'AR100'].map((k) => ({key: k, label: k, show: (v) => fixed(v)}))];
      section(`slice-${Object.keys(data.slices).indexOf(field)}`, `By ${field}`, `by ${field}`, table(columns, rows, {filter: 'find', csv: 'slices.csv', limit: 30}).node);
    }
  }

  function driftSection() {
    const d = data.drift;
    if (!d) return;
    const labels = d.sides.map((v, i) => (i + 1 < d.sides.length ? `${v}–${d.sides[i + 1]}` : `${v}+`));
    const most = [...d.classes].sort((a, b) => Math.abs(b.train - b.val) - Math.abs(a.train - a.val)).slice(0, 8);
    const b = d.brightness && d.brightness[0] && d.brightness[1];
    section('drift', 'Training and validation data', 'data',
      para(`${count(d.images[0])} images to train, ${count(d.images[1])} to validate. Distance of the class shares ${fixed(d.class_distance)}, of the sizes ${fixed(d.size_distance)} (0 equal, 1 nothing in common). `,
        b ? `Brightness ${fixed(d.brightness[0].mean, 2)} ± ${fixed(d.brightness[0].deviation, 2)} and ${fixed(d.brightness[1].mean, 2)} ± ${fixed(d.brightness[1].deviation, 2)}.` : ''),
      d.shared && d.shared.length ? el('p', {class: 'warn'}, `${d.shared.length} files are in both: `, name(d.shared[0].join(' = '))) : null,
      el('div', {class: 'charts'}, bars(most.map((c) => c.class), [{name: 'train', y: most.map((c) => c.train)}, {name: 'val', y: most.map((c) => c.val)}], {title: 'share of each class: the largest differences'}),
        bars(labels, [{name: 'train', y: d.sizes[0]}, {name: 'val', y: d.sizes[1]}], {title: 'share of objects by size, pixels'})));
  }

  function trainingSection() {
    const t = data.training;
    if (!t || !t.step.length) return;
    const evaluations = t.evaluations.filter((e) => e.AP !== null);
    const s = data.speed;
    section('training', 'Training', 'training', s ? para(`Median step ${fixed(s.seconds, 2)} s, of it ${fixed(s.data_seconds, 3)} s waiting for images; ${fixed(s.images_per_second, 2)} images a second; ${count(s.memory_mb)} MB.`) : null,
      el('div', {class: 'charts'}, lines(Object.entries(t.losses).map(([k, y]) => ({name: k.replace('loss_', ''), x: t.step, y})), {title: 'losses', xLabel: 'step'}),
        lines([{name: 'learning rate', x: t.step, y: t.lr}], {title: 'learning rate', xLabel: 'step'}),
        evaluations.length > 1 ? lines(['AP', 'AP50'].map((k) => ({name: k, x: evaluations.map((e) => e.step), y: evaluations.map((e) => e[k])})), {title: 'evaluations', xLabel: 'step', y: [0, 1]}) : null));
  }

  Object.assign(page.report, {compareSection, diagnosisSection, binSection, boxSection, calibrationSection, labelSection, sliceSection, driftSection, trainingSection});
})();
