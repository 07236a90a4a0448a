'use strict';
// A dataset's page: images with their boxes, filters, and what the check finds. Everything is drawn from page.data.
(() => {
  const {data, el, svg, name, count, unpack} = page;
  const files = data.files, part = unpack(data.part), sizes = unpack(data.imageSizes), offsets = unpack(data.offsets);
  const boxes = unpack(data.boxes), labels = unpack(data.labels), flags = unpack(data.flags);
  const FLAGS = ['no width or height', 'outside the image', 'repeated', 'across the edge', 'crowd', 'difficult'];
  const SIZES = {small: [0, 32 * 32], medium: [32 * 32, 96 * 96], large: [96 * 96, Infinity]};
  const BATCH = 60;
  const colour = (k) => `hsl(${(k * 137.508 + 205) % 360} 78% 56%)`;
  const area = (j) => Math.max(0, boxes[4 * j + 2] - boxes[4 * j]) * Math.max(0, boxes[4 * j + 3] - boxes[4 * j + 1]);

  // the findings of each image: [kind's index, object, found]
  const found = new Map();
  data.findings.forEach((finding, k) => finding.items.forEach(([i, , object, text]) => {
    if (i >= 0) (found.get(i) || found.set(i, []).get(i)).push([k, object, text]);
  }));

  // a finding about a whole set leaves all images
  const ofImages = data.findings.map((finding) => finding.items.some(([i]) => i >= 0));

  const state = {text: '', part: '', label: '', size: '', fault: '', sort: ''};
  let result = [], shown = 0, open = -1;

  // ---- which images ----
  const fits = (j) => (state.label === '' || labels[j] === Number(state.label))
    && (state.size === '' || (area(j) >= SIZES[state.size][0] && area(j) < SIZES[state.size][1]));
  function matches(i) {
    if (state.text && !files[i].toLowerCase().includes(state.text)) return false;
    if (state.part !== '' && part[i] !== Number(state.part)) return false;
    if (state.fault === 'any' && !found.has(i)) return false;
    if (state.fault !== '' && state.fault !== 'any' && ofImages[state.fault] && !(found.get(i) || []).some(([k]) => k === Number(state.fault))) return false;
    if (state.label === 'none') return offsets[i] === offsets[i + 1];
    if (state.label === '' && state.size === '') return true;
    for (let j = offsets[i]; j < offsets[i + 1]; j++) if (fits(j)) return true;
    return false;
  }
  function smallest(i) {
    let least = Infinity;
    for (let j = offsets[i]; j < offsets[i + 1]; j++) least = Math.min(least, area(j));
    return least;
  }
  function select() {
    result = [];
    for (let i = 0; i < files.length; i++) if (matches(i)) result.push(i);
    const objects = (i) => offsets[i + 1] - offsets[i];
    if (state.sort === 'many') result.sort((a, b) => objects(b) - objects(a));
    if (state.sort === 'small') {
      const key = new Map(result.map((i) => [i, smallest(i)]));
      result.sort((a, b) => key.get(a) - key.get(b));
    }
    if (state.sort === '') result.sort((a, b) => (b in data.thumbnails) - (a in data.thumbnails) || a - b);
    shown = 0;
    grid.replaceChildren();
    const filtered = Object.entries(state).some(([key, value]) => key !== 'sort' && value !== '');
    tally.textContent = `${count(result.length)} of ${count(files.length)} images`;
    clear.hidden = !filtered;
    grid.hidden = !result.length;
    none.hidden = result.length > 0;
    findingNodes.forEach((node, k) => node.show(state.fault === String(k)));
    classNodes.forEach((node, k) => node.setAttribute('aria-pressed', String(state.label === String(k))));
    for (const [key, node] of Object.entries(selects)) node.value = state[key];
    more();
  }
  function set(changes) {
    Object.assign(state, changes);
    select();
  }

  // ---- an image with its boxes ----
  function frame(i, chosen) {
    const height = sizes[2 * i] || 1, width = sizes[2 * i + 1] || 1;
    const root = svg('svg', {viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true'});
    const narrowed = state.label !== '' && state.label !== 'none' || state.size !== '';
    for (let j = offsets[i]; j < offsets[i + 1]; j++) {
      const [x1, y1, x2, y2] = boxes.subarray(4 * j, 4 * j + 4);
      if (![x1, y1, x2, y2].every(Number.isFinite)) continue;
      const at = {x: Math.min(x1, x2), y: Math.min(y1, y2), width: Math.abs(x2 - x1), height: Math.abs(y2 - y1)};
      const classes = [narrowed && !fits(j) ? 'other' : '', flags[j] ? 'odd' : '', chosen === j ? 'chosen' : ''].join(' ').trim();
      root.append(svg('g', {class: classes || null},
        svg('rect', {class: 'back', ...at}), svg('rect', {class: 'front', ...at, style: {stroke: colour(labels[j])}})));
    }
    const node = el('div', {class: `frame ${width * 3 >= height * 4 ? 'wide' : 'tall'}`, style: {aspectRatio: `${width} / ${height}`}}, root);
    node.dataset.image = i;
    return node;
  }
  function load(node) {
    const jpeg = data.thumbnails[node.dataset.image];
    if (jpeg && !node.querySelector('img')) node.prepend(el('img', {src: `data:image/jpeg;base64,${jpeg}`, alt: ''}));
  }
  const lazy = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      load(entry.target);
      lazy.unobserve(entry.target);
    }
  }, {rootMargin: '300px'});
  const objectsOf = (i) => { const n = offsets[i + 1] - offsets[i]; return n === 1 ? '1 object' : `${count(n)} objects`; };
  function card(i, place) {
    const node = frame(i, -1);
    lazy.observe(node);
    const faults = found.get(i) || [];
    const wanted = state.fault !== '' && state.fault !== 'any' ? faults.filter(([k]) => k === Number(state.fault)) : faults;
    const text = wanted.length ? `${data.findings[wanted[0][0]].kind}${wanted[0][2] ? `: ${wanted[0][2]}` : ''}` : '';
    return el('button', {type: 'button', class: 'card', 'aria-label': `${files[i]}, ${objectsOf(i)}`, onclick: () => show(place)},
      el('div', {class: 'picture'}, node),
      el('div', {class: 'caption'}, el('span', {class: 'file', title: files[i]}, name(files[i].split('/').pop())),
        el('span', {class: 'muted'}, `${data.sets[part[i]][0]} · ${objectsOf(i)}`),
        text ? el('span', {class: 'fault', title: text}, name(text + (wanted.length > 1 ? ` (+${wanted.length - 1})` : ''))) : null));
  }
  function more() {
    const next = result.slice(shown, shown + BATCH);
    grid.append(...next.map((i, k) => card(i, shown + k)));
    shown += next.length;
    end.hidden = shown >= result.length;
  }

  // ---- one image, large ----
  const body = el('div', {class: 'body'}), title = el('span', {class: 'muted small'}), heading = el('bdi');
  const dialog = el('dialog', {class: 'big', 'aria-label': 'image'},
    el('div', {class: 'head'}, heading, title,
      el('button', {type: 'button', onclick: () => step(-1), title: 'the image before (left)'}, '←'),
      el('button', {type: 'button', onclick: () => step(1), title: 'the next image (right)'}, '→'),
      el('button', {type: 'button', onclick: () => dialog.close(), title: 'close (Esc)'}, '✕')), body);
  dialog.addEventListener('close', () => { const node = grid.children[open]; if (node) node.focus(); });
  dialog.addEventListener('click', (event) => { if (event.target === dialog) dialog.close(); });
  function show(place) {
    open = place;
    while (shown <= place && shown < result.length) more();
    const i = result[place];
    heading.textContent = files[i];
    title.textContent = `${place + 1} of ${count(result.length)}`;
    const picture = el('div', {class: 'picture'});
    const fill = (chosen) => {
      const node = frame(i, chosen);
      const ratio = (sizes[2 * i + 1] || 1) / (sizes[2 * i] || 1);
      node.style.maxWidth = `calc(82vh * ${ratio})`;
      load(node);
      picture.replaceChildren(node);
    };
    fill(-1);
    const objects = [];
    for (let j = offsets[i]; j < offsets[i + 1]; j++) {
      const odd = FLAGS.filter((_, bit) => flags[j] & (1 << bit));
      const at = [...boxes.subarray(4 * j, 4 * j + 4)].map((v) => +v.toFixed(1)).join(', ');
      objects.push(el('li', {onpointerenter: () => fill(j), onpointerleave: () => fill(-1)},
        el('i', {style: {background: colour(labels[j])}}),
        el('span', null, name(data.classes[labels[j]]), ` `, el('span', {class: 'muted'}, at, odd.length ? ` (${odd.join(', ')})` : ''))));
    }
    const kinds = [...new Set((found.get(i) || []).map(([k]) => k))];
    const faults = kinds.map((k) => el('div', {class: 'warn'}, el('b', null, data.findings[k].kind), ': ',
      el('span', {class: 'muted'}, data.findings[k].then),
      el('ul', {class: 'loose'}, found.get(i).filter(([kind, object, text]) => kind === k && (object || text)).map(([, object, text]) =>
        el('li', null, object ? `object ${object}${text ? ': ' : ''}` : '', text ? name(text) : '')))));
    body.replaceChildren(picture, el('div', {class: 'facts'},
      el('p', {class: 'muted'}, `${data.sets[part[i]][0]}, ${sizes[2 * i + 1]}×${sizes[2 * i]} px, ${objectsOf(i)}`),
      i in data.thumbnails ? null : el('p', {class: 'muted'}, 'no thumbnail: ', el('code', null, '--images N'), ' of resdet data view makes more'),
      faults, el('ul', {class: 'objects'}, objects)));
    if (!dialog.open) dialog.showModal();
  }
  const step = (by) => { if (open + by >= 0 && open + by < result.length) show(open + by); };

  // ---- what is beside ----
  const findingNodes = data.findings.map((finding, k) => {
    const loose = finding.items.filter(([i]) => i < 0);
    const copy = el('button', {type: 'button', title: 'copy the command', onclick: async () => {
      try { await navigator.clipboard.writeText(finding.advice); copy.textContent = 'copied'; } catch { window.getSelection().selectAllChildren(code); }
    }}, 'copy');
    const code = el('code', null, finding.advice);
    const rest = el('div', {class: 'more', hidden: true}, el('p', {class: 'muted'}, finding.then),
      finding.advice ? el('div', {class: 'command'}, code, copy) : null,
      loose.length ? el('ul', {class: 'loose'}, loose.slice(0, 20).map(([, file, object, text]) => el('li', null,
        name(text || file), text ? null : object ? `, object ${object}` : '')), loose.length > 20 ? el('li', null, `… ${loose.length - 20} more`) : null) : null);
    const button = el('button', {type: 'button', onclick: () => set({fault: state.fault === String(k) ? '' : String(k)})},
      el('span', null, finding.kind), el('span', {class: 'count'}, count(finding.count)));
    const node = el('div', {class: `finding ${finding.severity}`}, button, rest);
    node.show = (on) => { rest.hidden = !on; button.setAttribute('aria-pressed', String(on)); };
    return node;
  });
  const perClass = new Array(data.classes.length).fill(0);
  for (const k of labels) perClass[k]++;
  const classNodes = data.classes.map((label, k) => el('button', {type: 'button', onclick: () => set({label: state.label === String(k) ? '' : String(k)})},
    el('i', {style: {background: colour(k)}}), name(label), el('span', {class: 'count'}, count(perClass[k]))));
  const order = data.classes.map((_, k) => k).sort((a, b) => perClass[b] - perClass[a]);
  const dropping = data.findings.filter((f) => f.severity === 'drops').reduce((sum, f) => sum + f.count, 0);
  const side = el('details', {class: 'side', open: window.innerWidth > 900},
    el('summary', null, `findings (${count(data.findings.reduce((sum, f) => sum + f.count, 0))}) and classes (${count(data.classes.length)})`),
    el('h2', null, 'Findings'),
    el('p', {class: 'muted small'}, dropping ? `${count(dropping)} of them lose training data (marked).` : 'Nothing that loses training data.',
      data.full ? '' : [' Annotations alone were checked; ', el('code', {class: 'keep'}, '--full'), ' also decodes and compares the images.']),
    findingNodes.length ? findingNodes : el('p', null, 'none'),
    el('h2', null, 'Classes'), el('ul', {class: 'classes'}, order.map((k) => el('li', null, classNodes[k]))));

  const pick = (key, label, options) => el('select', {'aria-label': label, onchange: (event) => set({[key]: event.target.value})},
    options.map(([value, text]) => el('option', {value}, text)));
  const selects = {
    part: pick('part', 'set', [['', 'all sets'], ...data.sets.map(([n], k) => [k, n])]),
    label: pick('label', 'class', [['', 'all classes'], ['none', 'without objects'], ...order.map((k) => [k, data.classes[k]])]),
    size: pick('size', 'object size', [['', 'all sizes'], ['small', 'small (< 32² px)'], ['medium', 'medium (to 96²)'], ['large', 'large']]),
    fault: pick('fault', 'finding', [['', 'with or without findings'], ['any', 'any finding'], ...data.findings.map((f, k) => [k, f.kind])]),
    sort: pick('sort', 'order', [['', 'thumbnails first'], ['file', 'in order'], ['many', 'most objects first'], ['small', 'smallest object first']]),
  };
  let waiting;
  const search = el('input', {type: 'search', placeholder: 'file name', 'aria-label': 'file name', oninput: () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => set({text: search.value.trim().toLowerCase()}), 120);
  }});
  const tally = el('b', {id: 'tally', 'aria-live': 'polite'});
  const clear = el('button', {type: 'button', id: 'clear', onclick: () => { search.value = ''; set({text: '', part: '', label: '', size: '', fault: ''}); }}, 'show all');
  const grid = el('div', {class: 'grid'}), none = el('p', {class: 'empty', hidden: true}, 'No image fits these filters.');
  const end = el('div', {class: 'empty'}, 'more …');
  const theme = () => { const root = document.documentElement; root.dataset.theme = root.dataset.theme === 'dark' ? 'light' : 'dark'; };
  const rest = data.total > files.length ? `, ${count(files.length)} of ${count(data.total)} images on this page` : '';
  document.body.append(
    el('header', {class: 'top'}, el('h1', null, name(data.title)),
      el('span', {class: 'muted small'}, data.sets.map(([n, images, objects]) => `${n}: ${count(images)} images, ${count(objects)} objects`).join(' · '), rest),
      el('div', {class: 'tools'}, el('button', {type: 'button', id: 'theme', onclick: theme, title: 'light or dark (t)'}, 'light / dark'))),
    el('div', {class: 'view'}, side, el('main', {class: 'main'},
      el('div', {class: 'bar'}, search, Object.values(selects)),
      el('div', {class: 'status'}, tally, clear, el('span', {class: 'keys'}, el('kbd', null, '/'), ' search  ', el('kbd', null, '←'), ' ', el('kbd', null, '→'), ' images  ', el('kbd', null, 'n'), ' next finding  ', el('kbd', null, 't'), ' theme')),
      grid, none, end)), dialog);
  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'Escape' && event.target === search) { search.blur(); return; }
    if (['INPUT', 'SELECT', 'TEXTAREA'].includes(event.target.tagName)) return;
    if (event.key === 't') theme();
    if (event.key === '/') { event.preventDefault(); search.focus(); }
    if (event.key === 'n' && data.findings.length && !dialog.open) {
      set({fault: String((state.fault === '' || state.fault === 'any' ? 0 : Number(state.fault) + 1) % data.findings.length)});
    }
    const by = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!by) return;
    event.preventDefault();
    if (dialog.open) step(by);
    else {
      const here = [...grid.children].indexOf(document.activeElement);
      const next = grid.children[here < 0 ? 0 : here + by];
      if (next) next.focus();
    }
  });
  new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting) && shown < result.length) more(); }, {rootMargin: '600px'}).observe(end);
  select();
})();
