// The dashboard: what the daemon is and does, live by its WebSocket, else by asking.
//
// Whatever comes from the daemon may have been named by a stranger: it becomes text nodes, by `el`
// and `named`, and never markup. Everything kept is bounded, and drawn a few times a second at most.

// All that it says, in one place.
const T = {
  skip: 'Skip to the content', nav: 'Sections',
  overview: 'Overview', backends: 'Backends', connections: 'Connections', closed: 'Recently closed',
  clients: 'Top clients', events: 'Events', log: 'Log', routes: 'Where would it go?', mesh: 'Mesh',
  routesShort: 'Routes', closedShort: 'Closed', clientsShort: 'Clients',
  listeners: 'Listeners', backendsTable: 'Table of backends',
  connectionsTable: 'Table of connections', closedTable: 'Table of closed connections',
  clientsTable: 'Table of clients', routesTable: 'Routes, in the order in which they are asked', eventsList: 'List of events', logList: 'List of log entries',
  peersTable: (network) => `Peers of ${network}`,

  client: 'Client', protocol: 'Protocol', host: 'Host', route: 'Route', backend: 'Backend',
  sent: 'Sent', received: 'Received', age: 'Age', action: 'Action', time: 'Time', took: 'Lasted',
  reason: 'Reason', name: 'Name', state: 'State', why: 'Why', active: 'Open', up: 'Sent/s',
  down: 'Received/s', latency: 'Latency', errors: 'Errors', test: 'Test', since: 'Since',
  address: 'Address', endpoints: 'Endpoints', seen: 'Seen', port: 'Port',
  show: 'Show', level: 'Level', filter: 'Filter', pause: 'Pause', pauseLog: 'Pause', ask: 'Ask',
  testTarget: 'Test with', testHint: 'its health target', hostHint: 'example.com',
  clientHint: 'this machine', portHint: '443',

  badge: {
    live: 'Live', connecting: 'Connecting', reconnecting: 'Reconnecting', stale: 'No word',
    polling: 'Polling', paused: 'Paused', off: 'Not signed in',
  },
  badgeWhy: {
    live: 'Events arrive as they happen.',
    stale: 'The daemon has been silent for too long; what you see may be old.',
    reconnecting: 'The daemon does not answer; what you see is old.',
    polling: 'There is no event stream: all seats are taken, or something on the way lets no '
      + 'WebSocket through. The page asks every 5 seconds instead.',
  },
  asOf: (time) => `, last heard ${time}`,

  uptime: 'Uptime', memory: 'Memory', process: 'Process', total: 'Connections so far',
  healthy: 'Backends up', watchers: 'Watchers', refused: 'Refused at a limit',
  failed: 'Failed requests', dropped: 'Datagrams dropped', lost: 'Lost by slow watchers',
  of: (count, all) => `${count} of ${all}`,
  watching: (events, logs) => `${events} events, ${logs} log`,
  pid: (pid, uid) => `pid ${pid}, uid ${uid}`,
  root: 'runs as root', notOpen: 'not listening',
  perSecond: (text) => `${text}/s`, newPerSecond: (count) => `${count} new/s`,
  peak: (text) => `peak ${text}`,
  graph: (title, now, peak) => `${title}: now ${now}, at most ${peak} in the last 5 minutes`,

  none: {
    backends: 'No backends.', connections: 'No connections.', closed: 'Nothing was closed yet.',
    clients: 'No clients.', events: 'Nothing happened yet.', log: 'No entries.', mesh: 'No peers.',
    routes: 'No routes.',
  },
  noMatch: 'No connection matches the filter.',
  shown: (shown, all) => (shown === all ? `${all}` : `${shown} of ${all}`),
  close: 'Close', closeOne: (id) => `Close connection ${id}`,
  closeShown: (count) => `Close ${count} shown`, closeSure: (count) => `Really close ${count}?`,
  closedAll: (count) => `Closed: ${count}.`, gone: 'That connection had already ended.',
  only: (client) => `Show the connections of ${client}`,
  testOne: (name) => `Test backend ${name}`, testing: 'testing…',
  tested: (name, text) => `${name}: ${text}`, testOk: (ms) => `works, ${ms} ms`,
  noTarget: 'This backend has no health target: name a host:port in “Test with”.',
  readOnly: 'Your token may look, not change. Sign in with the full token for that.',
  failure: (message) => `That did not work: ${message}`, noAnswer: 'the daemon does not answer.',
  carriedBy: (strategy, names) => `${strategy} → ${names || 'nobody'}`,

  everything: 'everything', quiet: 'no connections but failed ones',
  restarted: 'The daemon was restarted.', lostEvents: (count) => `${count} events were lost.`,
  via: 'via', byRoute: (route) => `route ${route}`, changed: 'changed:', nothing: 'nothing',
  needsRestart: 'some of it waits for a restart',
  faults: (count) => (count === 1 ? '1 fault' : `${count} faults`),
  rejected: 'The new configuration was refused; the daemon goes on with the one it had.',
  logState: { live: '', waiting: 'waiting', polling: 'asked every 5 s', paused: 'paused' },

  goes: (target, route, backend) => `${target} takes the route ${route} to the backend ${backend}.`,
  nowhere: (target) => `${target} goes nowhere.`, wouldRefuse: (word, text) => `${text} (${word})`,
  carriers: 'Tried in this order:', others: 'Not tried now:',
  takes: 'Takes', answer: 'This target', yes: '✓ takes it', byPattern: (pattern) => `by ${pattern}`,
  anything: 'everything', listed: (file, count) => `${count} of ${file}`, ports: (text) => `ports ${text}`,
  ofClients: (text) => `from ${text}`, disabled: 'It is disabled.',
  peers: (count) => (count === 1 ? '1 peer' : `${count} peers`),

  login: 'Token', token: 'Token', enter: 'Enter', cancel: 'Cancel',
  loginWhy: 'This daemon asks for a token: control.token in its configuration. '
    + 'It is kept until this tab is closed.',
  wrongToken: 'This token is wrong.', signIn: 'Enter token', signOut: 'Forget token',

  units: ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'],
  days: (d, h) => `${d} d ${h} h`, hours: (h, m) => `${h} h ${m} min`,
  minutes: (m, s) => `${m} min ${s} s`, seconds: (s) => `${s} s`, ms: (ms) => `${ms} ms`,
};

// Limits: rows shown, things kept; milliseconds where nothing else is said.
const SHOWN = 200, BACKENDS = 256, KEPT = 10000, CLOSED = 100, CLIENTS = 50, EVENTS = [150, 100], LINES = [300], TAIL = 200;
// Characters of a name; what is longer is cut until somebody wants it. 46: an IPv6 address.
const LONG = 80, SHORT = 32, ADDRESS = 46, SENTENCE = 200;
const HISTORY = 300; // seconds of the graphs
const REFRESH = 5000, PING = 25000, ASK = 10000, STALE = 20000, DROP = 30000, PATIENCE = 10000;
const FRAME = 200; // between two drawings
const API = new URL('api/v1/', document.baseURI).href;

const $ = (id) => document.getElementById(id);
const now = () => performance.now();

// ---------------------------------------------------------------------------- elements and text

// Controls, and what turns or hides text (bidi, zero width), become visible: \u{202e}.
const plain = (text) => String(text ?? '').replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/gu,
  (char) => `\\u{${char.codePointAt(0).toString(16)}}`);

function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== '' && child != null));
  return element;
}

// A text that somebody else chose, on its own in both writing directions.
function named(text, long = LONG) {
  const full = plain(text);
  if (full.length <= long) return el('bdi', null, full);
  const cut = el('bdi', null, `${full.slice(0, long - 1)}…`);
  return el('button', {
    type: 'button', class: 'cut', 'aria-expanded': 'false', title: full.slice(0, 1000),
    onclick(event) {
      const open = event.currentTarget.getAttribute('aria-expanded') !== 'true';
      event.currentTarget.setAttribute('aria-expanded', open);
      cut.textContent = open ? full : `${full.slice(0, long - 1)}…`;
    },
  }, cut);
}

function bytes(count) {
  let unit = 0, value = Number(count) || 0;
  while (value >= 1023.5 && unit < T.units.length - 1) { value /= 1024; unit += 1; }
  return `${unit && value < 99.95 ? value.toFixed(1) : Math.round(value)} ${T.units[unit]}`;
}

function span(seconds) {
  const s = Math.max(0, Math.floor(seconds)), m = Math.floor(s / 60), h = Math.floor(m / 60);
  if (h >= 24) return T.days(Math.floor(h / 24), h % 24);
  if (h) return T.hours(h, m % 60);
  return m ? T.minutes(m, s % 60) : T.seconds(s);
}

const lasted = (ms) => (ms < 1000 ? T.ms(Math.round(ms)) : ms < 9950 ? T.seconds((ms / 1000).toFixed(1)) : span(ms / 1000));
const rate = (perSecond) => T.perSecond(bytes(perSecond));
const few = (value) => (value && value < 9.95 ? value.toFixed(1) : String(Math.round(value)));

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium', hourCycle: 'h23' });
const calendar = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'long', hourCycle: 'h23' });
const written = (format, when) => (Number.isNaN(Number(when)) ? '' : format.format(when));

function moment(timestamp) {
  const when = new Date(timestamp);
  return el('time', { datetime: plain(timestamp), title: written(calendar, when) }, written(clock, when));
}

// The daemon's clock may be wrong, on a router without a battery by decades.
let skew = 0;
const local = (timestamp) => (Date.parse(timestamp) || Date.now() + skew) - skew;
function setClock(timestamp) {
  const ahead = Date.parse(timestamp) - Date.now();
  if (!Number.isNaN(ahead)) skew = Math.abs(ahead) < 3000 ? 0 : ahead;
}

// ---------------------------------------------------------------------------- drawing

const views = {}, dirty = new Set();
let drawing = false;

function draw(...names) {
  names.forEach((name) => dirty.add(name));
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(paint);
}

function paint() {
  const began = now(), names = [...dirty];
  dirty.clear();
  for (const name of names) {
    try { views[name](); } catch (error) { reportError(error); } // one view takes no other with it
  }
  // Behind the layout that this caused. A slow machine draws less often, and keeps most of its time.
  setTimeout(() => setTimeout(() => {
    drawing = false;
    if (dirty.size) draw();
  }, Math.max(FRAME, 4 * (now() - began))));
}

// A table whose rows stay the same elements while what they show lives.
class Table {
  // columns: {title, text(item), node?(item, text), number?, sort?(item), build?: nodes are made once}
  constructor(table, columns, { key, row, sort, empty }) {
    Object.assign(this, { columns, key, row, empty, rows: new Map(), sort });
    this.body = el('tbody');
    this.heads = columns.map((column) => this.head(column));
    table.append(el('thead', null, el('tr', null, ...this.heads)), this.body);
    this.box = table.closest('.scroll');
    this.mark();
  }

  head(column) {
    const title = column.sort
      ? el('button', { type: 'button', onclick: () => this.order(column) }, column.title)
      : column.title;
    return el('th', { scope: 'col', class: column.class }, title);
  }

  order(column) {
    const same = this.sort.column === column;
    this.sort = { column, down: same ? !this.sort.down : Boolean(column.number) };
    this.mark();
    this.sort.changed?.();
    this.changed?.();
  }

  mark() {
    this.columns.forEach((column, at) => {
      if (!column.sort) return;
      const mine = this.sort?.column === column;
      this.heads[at].setAttribute('aria-sort', !mine ? 'none' : this.sort.down ? 'descending' : 'ascending');
    });
  }

  sorted(items) {
    const { column, down } = this.sort, turn = down ? -1 : 1;
    const value = column.sort;
    return items.sort((a, b) => turn * compare(value(a), value(b)) || a.id - b.id);
  }

  // While a mouse is over the rows they keep their places, so that no click meets another row.
  held(items) {
    if (!this.body.matches(':hover') || !matchMedia('(hover: hover)').matches) return items;
    const places = new Map([...this.rows.keys()].map((key) => [key, this.rows.get(key).tr.rowIndex]));
    return items.sort((a, b) => (places.get(this.key(a)) ?? 1e9) - (places.get(this.key(b)) ?? 1e9));
  }

  draw(items, empty = this.empty) {
    const focus = this.body.contains(document.activeElement) ? document.activeElement : null;
    const wanted = new Set(items.map(this.key));
    for (const [key, { tr }] of this.rows) {
      if (!wanted.has(key)) { tr.remove(); this.rows.delete(key); }
    }
    if (this.nothing && (items.length || this.nothing.textContent !== empty)) {
      this.nothing.remove();
      this.nothing = null;
    }
    let place = this.body.firstChild;
    for (const item of items) {
      const { tr } = this.fill(item);
      if (tr === place) place = place.nextSibling;
      else this.body.insertBefore(tr, place);
    }
    if (!items.length && !this.nothing) {
      this.nothing = el('tr', { class: 'nothing' }, el('td', { colspan: this.columns.length }, empty));
      this.body.append(this.nothing);
    }
    if (focus && focus !== document.activeElement) {
      (focus.isConnected ? focus : this.box).focus({ preventScroll: true });
    }
  }

  fill(item) {
    const key = this.key(item);
    let row = this.rows.get(key);
    if (!row) {
      const cells = this.columns.map((column) => el('td', { class: column.class, 'data-title': column.title }));
      row = { tr: el('tr', null, ...cells), cells, texts: [] };
      this.rows.set(key, row);
    }
    for (const [name, value] of Object.entries(this.row(item))) {
      if (row.tr.getAttribute(name) !== value) row.tr.setAttribute(name, value);
    }
    this.columns.forEach((column, at) => {
      const text = column.text(item);
      if (row.texts[at] === text) return;
      row.texts[at] = text;
      row.cells[at].replaceChildren(column.node ? column.node(item, text) : text);
    });
    return row;
  }

  drop(key) {
    const row = this.rows.get(key);
    if (!row) return;
    if (row.tr.contains(document.activeElement)) this.box.focus({ preventScroll: true });
    row.tr.remove();
    this.rows.delete(key);
  }
}

const collator = new Intl.Collator('en', { numeric: true });
const compare = (a, b) => (typeof a === 'number' ? a - b : collator.compare(a, b));

// A list that grows at its top. Of what comes in floods so many are kept, and so many of the rest,
// which no flood washes away.
class Feed {
  constructor(list, most, empty, build) {
    Object.assign(this, { list, most, empty, build, fresh: [], serial: 0, calm: false });
    this.wants = () => true;
    this.clear();
  }

  add(item, kind = 0) {
    this.serial += 1;
    Object.assign(item, { serial: this.serial, kind });
    keep(this.kept[kind], item, this.most[kind]);
    if (this.calm && kind === 0) return;
    this.fresh.push(item);
    if (this.fresh.length > this.most[0]) this.redo();
  }

  clear() {
    this.kept = this.most.map(() => []);
    this.redo();
  }

  // Draw the whole list anew, next time.
  redo() {
    this.whole = true;
    this.fresh = [];
  }

  draw() {
    let items = this.fresh;
    if (this.whole) {
      items = this.kept.slice(this.calm ? 1 : 0).flat().sort((a, b) => a.serial - b.serial);
      this.nodes = this.most.map(() => []);
      this.list.replaceChildren();
    }
    this.whole = false;
    this.fresh = [];
    for (const item of items.filter(this.wants)) {
      const node = this.build(item), nodes = this.nodes[item.kind];
      this.list.prepend(node);
      nodes.push(node);
      if (nodes.length > this.most[item.kind]) nodes.shift().remove();
    }
    const nothing = this.list.querySelector('.nothing');
    if (this.nodes.some((nodes) => nodes.length)) nothing?.remove();
    else if (!nothing) this.list.append(el('li', { class: 'nothing' }, this.empty));
  }
}

// Append; the oldest go, many at a time.
function keep(items, item, most) {
  items.push(item);
  if (items.length > 2 * most) items.splice(0, items.length - most);
}

let silence;
function notice(text) {
  clearTimeout(silence);
  $('notice').textContent = plain(text);
  silence = setTimeout(() => { $('notice').textContent = ''; }, 10000);
}

// ---------------------------------------------------------------------------- overview

const overview = { status: null, stats: null, base: null, history: [], up: 0, down: 0, fresh: 0 };

const graphs = [
  { title: T.sent, class: 'sent', value: (sample) => sample.up, show: rate, least: 1024 },
  { title: T.received, class: 'received', value: (sample) => sample.down, show: rate, least: 1024 },
  { title: T.connections, class: 'open', value: (sample) => sample.active, show: String, least: 4 },
];
const SVG = 'http://www.w3.org/2000/svg', WIDE = 300, HIGH = 40;

function buildGraphs() {
  for (const graph of graphs) {
    const svg = document.createElementNS(SVG, 'svg');
    svg.setAttribute('viewBox', `0 0 ${WIDE} ${HIGH}`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', graph.title);
    graph.area = document.createElementNS(SVG, 'path');
    graph.line = document.createElementNS(SVG, 'path');
    graph.area.setAttribute('class', 'area');
    svg.append(graph.area, graph.line);
    Object.assign(graph, { svg, now: el('b'), more: el('span', { class: 'dim' }) });
    const head = el('div', null, el('span', { class: 'title' }, graph.title), graph.now, graph.more);
    $('graphs').append(el('div', { class: `graph ${graph.class}` }, head, svg));
  }
}

// Rates come of two looks at the counters, at least about a second apart.
function setStats(stats) {
  const at = now(), base = overview.base, history = overview.history;
  overview.stats = stats;
  overview.counted = at;
  const seconds = base ? (at - base.at) / 1000 : 0;
  const moved = (key) => Math.max(0, stats[key] - base.stats[key]) / seconds;
  if (!base) {
    overview.base = { at, stats };
  } else if (seconds >= 0.9) {
    Object.assign(overview, {
      base: { at, stats }, up: moved('bytes_sent'), down: moved('bytes_received'),
      fresh: moved('total_connections'),
    });
    const { up, down } = overview;
    history.push({ at, up, down, active: stats.active_connections });
    while (history[0].at < at - HISTORY * 1000) history.shift();
  }
  draw('graphs', 'facts');
}

views.graphs = () => {
  const { history, stats, up, down, fresh } = overview, last = history.at(-1)?.at ?? 0;
  const wide = Math.max(60000, last - (history[0]?.at ?? last)); // at least a minute
  const current = { up, down, active: stats?.active_connections ?? 0 };
  for (const graph of graphs) {
    const values = history.map(graph.value), peak = Math.max(0, ...values);
    const top = Math.max(peak, graph.least) * 1.05;
    const points = history.map((sample, at) => {
      const x = WIDE * (1 - (last - sample.at) / wide);
      return `${x.toFixed(1)},${(HIGH - 1 - (values[at] / top) * (HIGH - 2)).toFixed(1)}`;
    });
    const line = points.length > 1 ? `M${points.join('L')}` : '';
    const start = points[0]?.split(',')[0];
    graph.line.setAttribute('d', line);
    graph.area.setAttribute('d', line && `${line}L${WIDE},${HIGH}L${start},${HIGH}Z`);
    const shown = graph.show(graph.value(current));
    graph.now.textContent = shown;
    graph.more.textContent = graph.class === 'open' ? T.newPerSecond(few(fresh)) : T.peak(graph.show(peak));
    graph.svg.setAttribute('aria-label', T.graph(graph.title, shown, graph.show(Math.max(peak, graph.value(current)))));
  }
};

views.facts = () => {
  const { status, stats } = overview;
  if (!status) return;
  $('version').replaceChildren(named(status.version, SHORT));
  const up = [...backends.values()].filter((backend) => backend.healthy).length;
  const failed = Object.entries(status.failures ?? {}).sort((a, b) => b[1] - a[1]);
  const sum = failed.reduce((count, entry) => count + entry[1], 0);
  const facts = [
    [T.uptime, span((Date.now() - overview.since) / 1000)],
    [T.memory, bytes(status.memory_rss)],
    [T.process, T.pid(status.pid, status.uid), status.uid === 0 && T.root],
    [T.healthy, T.of(up, backends.size), null, up < backends.size],
    [T.watchers, T.watching(T.of(status.clients?.count, status.clients?.max), T.of(status.subscribers?.count, status.subscribers?.max))],
    [T.total, String(stats?.total_connections ?? '')],
    [T.failed, String(sum), failed.slice(0, 3).map(([word, count]) => `${word} ${count}`).join(', ')],
    status.refused && [T.refused, String(status.refused)],
    status.dropped && [T.dropped, String(status.dropped)],
    (status.events_lost || status.entries_lost) && [T.lost, T.watching(status.events_lost, status.entries_lost)],
  ];
  $('facts').replaceChildren(...facts.filter(Boolean).map(([name, value, more, bad]) => {
    const small = more && el('small', { class: more === T.root ? 'warn' : undefined }, named(more));
    return el('div', null, el('dt', null, name), el('dd', { class: bad && 'warn' }, value, ' ', small));
  }));
  $('listeners').replaceChildren(...(status.listeners ?? []).map((one) => {
    const host = one.address.includes(':') ? `[${one.address}]` : one.address;
    return el('li', { class: one.open ? undefined : 'bad' }, named(one.name, SHORT), ' ',
      el('code', null, named(`${host}:${one.port}`)), one.name === one.protocol ? '' : ' ', one.name === one.protocol ? '' : named(one.protocol, SHORT),
      one.open ? '' : ` (${T.notOpen})`);
  }));
};

let faultsShown = '';
function setFaults(faults) {
  const text = JSON.stringify(faults ?? []);
  if (text === faultsShown) return;
  faultsShown = text;
  const box = $('faults');
  box.hidden = !faults?.length;
  box.replaceChildren();
  if (box.hidden) return;
  const lines = faults.slice(0, 50).map((fault) => {
    const place = [fault.section, fault.field].filter(Boolean).join('.');
    return el('li', null, place && el('code', null, named(place)), place && ' ', named(fault.message, SENTENCE));
  });
  box.append(el('strong', null, T.rejected), el('ul', null, ...lines));
}

// ---------------------------------------------------------------------------- backends

const backends = new Map(), results = new Map();
const STATES = new Set(['up', 'down', 'suspect', 'waiting']);

const badgeOf = (state) => el('span', { class: 'state', 'data-state': STATES.has(state) ? state : 'other' }, named(state, SHORT));

const backendTable = new Table(document.querySelector('#backends table'), [
  {
    title: T.name, class: 'name', text: (b) => `${b.name}\n${b.type}\n${b.strategy}\n${b.carriers}`,
    node(b) {
      const group = b.strategy && T.carriedBy(b.strategy, (b.carriers ?? []).join(', '));
      return el('div', null, named(b.name, SHORT), el('small', null, named(group ? `${b.type}, ${group}` : b.type)));
    },
  },
  { title: T.state, class: 'state-column', text: (b) => b.state, node: (b) => badgeOf(b.state) },
  {
    title: T.why, class: 'why', text: (b) => `${b.reason}\n${span((Date.now() - local(b.since)) / 1000)}`,
    node(b, text) {
      const when = el('time', { datetime: plain(b.since), title: written(calendar, new Date(b.since)) }, text.split('\n').at(-1));
      return el('div', null, named(b.reason, SENTENCE), el('small', null, when));
    },
  },
  { title: T.active, class: 'number', text: (b) => String(b.stats?.active_connections ?? '') },
  { title: T.up, class: 'number', text: (b) => (b.up === undefined ? '' : rate(b.up)) },
  { title: T.down, class: 'number', text: (b) => (b.down === undefined ? '' : rate(b.down)) },
  { title: T.latency, class: 'number', text: (b) => (b.stats?.latency_ms ? T.ms(b.stats.latency_ms) : '') },
  {
    title: T.errors, class: 'number errors', text: (b) => `${b.stats?.errors ?? ''}\n${b.stats?.last_error ?? ''}`,
    node: (b) => el('div', null, String(b.stats?.errors ?? ''), b.stats?.last_error && el('small', null, named(b.stats.last_error, SHORT))),
  },
  {
    title: T.test, class: 'test', text: (b) => results.get(b.name)?.text ?? '',
    node(b, text) {
      const result = results.get(b.name);
      const button = el('button', { type: 'button', 'aria-label': T.testOne(plain(b.name)), onclick: () => test(b.name) }, T.test);
      return el('div', null, button, el('small', { class: result?.ok === false ? 'bad' : undefined }, text));
    },
  },
], {
  key: (b) => b.name, row: (b) => ({ 'data-name': b.name, 'data-state': String(b.state) }), empty: T.none.backends,
});

views.backends = () => backendTable.draw([...backends.values()]);

function setBackends(found) {
  const at = now();
  const before = new Map(backends);
  backends.clear();
  for (const backend of found.slice(0, BACKENDS)) {
    const old = before.get(backend.name), seconds = old?.at ? (at - old.at) / 1000 : 0;
    for (const [key, count] of [['up', 'bytes_sent'], ['down', 'bytes_received']]) {
      if (seconds) backend[key] = Math.max(0, backend.stats[count] - old.stats[count]) / seconds;
    }
    backends.set(backend.name, Object.assign(backend, { at }));
  }
  draw('backends', 'facts');
}

function setHealth(health) {
  const backend = backends.get(health.name);
  if (!backend) { load('backends'); return; }
  Object.assign(backend, health);
  draw('backends', 'facts');
}

async function test(name) {
  const target = $('test-target').value.trim();
  const focused = document.activeElement?.closest?.(`[data-name]`)?.dataset.name === name;
  results.set(name, { text: T.testing });
  const done = (text, ok) => {
    results.set(name, { text, ok });
    notice(T.tested(name, text));
    draw('backends');
    if (focused) requestAnimationFrame(() => refocus(name));
  };
  draw('backends');
  try {
    const found = await api(`backends/${encodeURIComponent(name)}/test`, { body: target ? { target } : {} });
    done(found.ok ? T.testOk(found.latency_ms) : plain(found.message), found.ok);
  } catch (error) {
    const missing = error.word === 'no_target';
    done(missing ? T.noTarget : error.told(), false);
    if (missing) $('test-target').focus();
  }
}

function refocus(name) {
  if (document.activeElement === backendTable.box || document.activeElement === document.body) {
    backendTable.rows.get(name)?.tr.querySelector('.test button')?.focus({ preventScroll: true });
  }
}

// ---------------------------------------------------------------------------- connections

// `window` remembers what opens and closes while the list is on its way.
const connections = { all: new Map(), window: null, paused: false };

const item = (data, started, sent, received) => ({
  id: data.id, client: data.client_ip, protocol: data.protocol, host: data.host, route: data.route,
  backend: data.backend, sent: sent ?? 0, received: received ?? 0, started,
});

const columns = {
  client: { title: T.client, class: 'client', text: (c) => c.client, node: (c) => named(c.client, ADDRESS), sort: (c) => c.client },
  protocol: { title: T.protocol, class: 'protocol', text: (c) => c.protocol, node: (c) => named(c.protocol, SHORT), sort: (c) => c.protocol },
  host: { title: T.host, class: 'host', text: (c) => c.host, node: (c) => named(c.host), sort: (c) => c.host },
  route: { title: T.route, class: 'route', text: (c) => c.route, node: (c) => named(c.route, SHORT), sort: (c) => c.route },
  backend: { title: T.backend, class: 'backend', text: (c) => c.backend, node: (c) => named(c.backend, SHORT), sort: (c) => c.backend },
  sent: { title: T.sent, class: 'number', number: true, text: (c) => bytes(c.sent), sort: (c) => c.sent },
  received: { title: T.received, class: 'number', number: true, text: (c) => bytes(c.received), sort: (c) => c.received },
  age: { title: T.age, class: 'number age', text: (c) => span((Date.now() - c.started) / 1000), sort: (c) => -c.started },
  close: {
    title: T.action, class: 'action', text: (c) => String(c.id),
    node: (c) => el('button', { type: 'button', 'aria-label': T.closeOne(c.id), onclick: () => closeOne(c.id) }, T.close),
  },
};

const connectionTable = new Table(document.querySelector('#connections table'), Object.values(columns), {
  key: (c) => c.id, row: (c) => ({ 'data-id': String(c.id) }), empty: T.none.connections,
  sort: { column: columns.age, down: false },
});
connectionTable.changed = () => drawConnections(true);

const filters = () => [$('filter-client'), $('filter-host')].map((input) => input.value.trim().toLowerCase());

function matching() {
  const [client, host] = filters();
  const all = [...connections.all.values()];
  if (!client && !host) return all;
  return all.filter((c) => c.client.toLowerCase().includes(client) && plain(c.host).toLowerCase().includes(host));
}

views.connections = () => {
  const found = matching(), filtered = filters().some(Boolean);
  const shown = connectionTable.held(connectionTable.sorted(found).slice(0, SHOWN));
  connectionTable.draw(shown, filtered && connections.all.size ? T.noMatch : T.none.connections);
  $('connections-count').textContent = T.shown(shown.length, connections.all.size);
  drawCloseShown(filtered ? shown.length : 0);
};

// What the user does to a table that stands still shows all the same.
function drawConnections(asked = false) {
  if (asked || !connections.paused) draw('connections');
}

function setConnections(list) {
  const { window, all } = connections, fresh = new Map();
  for (const one of list) {
    if (window?.closed.has(one.id)) continue;
    fresh.set(one.id, item(one, Date.now() - one.age * 1000, one.bytes_sent, one.bytes_received));
  }
  for (const id of window?.opened ?? []) {
    if (!fresh.has(id) && all.has(id)) fresh.set(id, all.get(id));
  }
  // Whole seconds of age would make rows jump about: a start that is known stays.
  for (const one of fresh.values()) {
    const old = all.get(one.id);
    if (old && Math.abs(old.started - one.started) < 2000) one.started = old.started;
  }
  connections.all = fresh;
  connections.window = null;
  drawConnections();
}

function opened(data, timestamp) {
  connections.window?.opened.add(data.id);
  if (connections.all.size < KEPT && !connections.all.has(data.id)) {
    connections.all.set(data.id, item(data, local(timestamp)));
  }
  drawConnections();
}

function ended(data, timestamp, prefix = '') {
  if (!prefix) {
    connections.window?.closed.add(data.id);
    connections.all.delete(data.id);
    drawConnections();
  }
  closed.add(data, timestamp, prefix);
}

async function closeOne(id) {
  try {
    await api(`connections/${id}`, { method: 'DELETE' });
  } catch (error) {
    if (error.status !== 404) { notice(error.told()); return false; }
    notice(T.gone);
  }
  connections.all.delete(id);
  connections.window?.closed.add(id);
  connectionTable.drop(id);
  drawConnections();
  return true;
}

// Two presses, the second within five seconds, close what was shown at the first.
const armed = { ids: null, timer: 0 };

function drawCloseShown(count) {
  if (armed.ids) return;
  $('close-shown').hidden = !count;
  $('close-shown').textContent = T.closeShown(count);
}

function disarm() {
  clearTimeout(armed.timer);
  armed.ids = null;
  draw('connections');
}

async function closeShown() {
  const { ids } = armed;
  if (!ids) {
    armed.ids = [...connectionTable.rows.keys()];
    armed.timer = setTimeout(disarm, 5000);
    $('close-shown').textContent = T.closeSure(armed.ids.length);
    return;
  }
  disarm();
  let count = 0;
  for (const id of ids) {
    if (!connections.all.has(id)) continue;
    if (!await closeOne(id)) return;
    count += 1;
  }
  notice(T.closedAll(count));
}

// ---------------------------------------------------------------------------- closed, clients

// The newest first. Finished requests, which are all there is of the time before the events, are
// marked by a prefix: their numbers are others.
const closed = {
  items: [], serial: 0,
  make(data, timestamp, prefix) {
    this.serial += 1;
    return {
      ...item(data, 0, data.bytes_sent, data.bytes_received), serial: this.serial, timestamp,
      shown: `${prefix}${data.id}`, took: data.duration_ms, reason: data.reason,
    };
  },
  add(data, timestamp, prefix) {
    this.items.unshift(this.make(data, timestamp, prefix));
    if (this.items.length > CLOSED) this.items.length = CLOSED;
    draw('closed');
  },
  // What the events that were replayed do not reach back to, as far as it was ever open.
  prime(requests) {
    const oldest = this.items.at(-1)?.timestamp ?? link.since;
    const from = oldest < link.since ? oldest : link.since;
    const older = requests.filter((request) => request.timestamp < from
      && (!request.error || request.bytes_sent + request.bytes_received > 0));
    const made = older.map((request) => this.make({ ...request, reason: request.error || 'closed' }, request.timestamp, 'r'));
    this.items = [...this.items, ...made].slice(0, CLOSED);
    draw('closed');
  },
};

const once = (column) => ({ ...column, sort: undefined });
const closedTable = new Table(document.querySelector('#closed table'), [
  { title: T.time, class: 'time', text: (c) => c.timestamp, node: (c) => moment(c.timestamp) },
  once(columns.client),
  {
    title: T.host, class: 'host', text: (c) => `${c.host}\n${c.protocol}`,
    node: (c) => el('div', null, named(c.host), ' ', el('span', { class: 'kind' }, named(c.protocol, SHORT))),
  },
  ...['backend', 'sent', 'received'].map((name) => once(columns[name])),
  { title: T.took, class: 'number', text: (c) => (c.took === undefined ? '' : lasted(c.took)) },
  {
    title: T.reason, class: 'reason', text: (c) => c.reason,
    node: (c) => el('span', { class: c.reason === 'closed' ? 'dim' : 'warn' }, named(c.reason, ADDRESS)),
  },
], { key: (c) => c.serial, row: (c) => ({ 'data-id': c.shown }), empty: T.none.closed });
views.closed = () => closedTable.draw(closed.items);

let clients = [];
const clientTable = new Table(document.querySelector('#clients table'), [
  {
    title: T.client, class: 'client', text: (c) => c.client_ip,
    node: (c) => el('button', {
      type: 'button', class: 'link', 'aria-label': T.only(plain(c.client_ip)),
      onclick() { $('filter-client').value = c.client_ip; drawConnections(true); $('filter-client').focus(); },
    }, named(c.client_ip, ADDRESS)),
  },
  { title: T.active, class: 'number', text: (c) => String(c.connections) },
  once(columns.sent), once(columns.received),
  { title: T.since, class: 'number', text: (c) => span((Date.now() - local(c.first_seen)) / 1000) },
], { key: (c) => c.client_ip, row: (c) => ({ 'data-client': plain(c.client_ip) }), empty: T.none.clients });
views.clients = () => clientTable.draw(clients);

// ---------------------------------------------------------------------------- events

const timeline = new Feed($('events-list'), EVENTS, T.none.events, ({ type, data, timestamp }) => {
  const label = el('span', { class: 'type' }, named(type, SHORT));
  return el('li', { 'data-type': type }, moment(timestamp), label, el('span', { class: 'text' }, ...describe(type, data)));
});
views.events = () => timeline.draw();

function describe(type, data) {
  const dim = (text) => el('span', { class: 'dim' }, text);
  if (type.startsWith('connection.')) {
    const more = dim('');
    if (data.backend) more.append(` ${T.via} `, named(data.backend, SHORT));
    if (data.route) more.append(', ', named(T.byRoute(data.route), SHORT));
    if (type === 'connection.close') more.append(`, ${bytes(data.bytes_sent)} / ${bytes(data.bytes_received)}, ${lasted(data.duration_ms)}`);
    const parts = data.host ? [named(data.client_ip, ADDRESS), ' → ', named(data.host), more] : [named(data.client_ip, ADDRESS), more];
    if (data.reason) parts.push(', ', named(data.reason, ADDRESS));
    return parts;
  }
  if (type === 'backend.health') return [named(data.name, SHORT), ' ', badgeOf(data.state ?? (data.healthy ? 'up' : 'down')), ' ', named(data.reason, SENTENCE)];
  if (type === 'config.rejected') return [T.faults(data.errors?.length ?? 0)];
  if (type === 'events.lost') return [data.lost === null ? T.restarted : T.lostEvents(data.lost)];
  if (type.startsWith('config.')) {
    const restart = data.requires_restart ? `; ${T.needsRestart}` : '';
    return [dim(`${T.changed} `), named((data.changed_sections ?? []).join(', ') || T.nothing, SENTENCE), restart];
  }
  return [named(JSON.stringify(data))];
}

function onEvent(event) {
  const { type, data, timestamp, seq } = event, isNew = seq > link.seq;
  if (isNew) link.seq = seq;
  if (data.boot) link.boot = data.boot;
  if (type === 'stats.update') {
    setStats(data);
    prime();
    return;
  }
  if (type === 'events.lost') {
    link.seq = seq;
    if (link.whole) return; // that the ring forgot what was before us is no news
    if (data.lost === null) connections.all.clear();
    loadAll();
  } else if (type === 'backend.health') {
    setHealth(data);
    if (!isNew) return; // the present picture, not a change
  } else if (!isNew) {
    return;
  } else if (type === 'connection.new') {
    opened(data, timestamp);
  } else if (type === 'connection.close') {
    ended(data, timestamp);
  } else if (type === 'config.rejected') {
    setFaults(data.errors);
  } else if (type === 'config.reload') {
    setFaults([]);
    for (const kind of ['backends', 'routes', 'status']) load(kind);
  }
  timeline.add(event, type === 'connection.new' || type === 'connection.close' ? 0 : 1);
  draw('events');
}

// ---------------------------------------------------------------------------- the log

const LEVELS = ['debug', 'info', 'warn', 'error'];
const log = { abort: null, id: '', delay: 1, timer: 0, heard: 0, paused: false, polling: false };

const lines = new Feed($('log-list'), LINES, T.none.log, ({ entry }) => {
  const { fields = {} } = entry, level = LEVELS.includes(entry.level) ? entry.level : 'info';
  const more = [fields.status_code, fields.client_ip, fields.backend && `${T.via} ${fields.backend}`];
  if (fields.duration_ms !== undefined) more.push(lasted(fields.duration_ms), `${bytes(fields.bytes_sent)} / ${bytes(fields.bytes_received)}`);
  more.push(fields.error, fields.source);
  const rest = more.filter((part) => part !== undefined && part !== '').join(', ');
  return el('li', { 'data-level': level }, moment(entry.timestamp), el('span', { class: 'type' }, level),
    el('span', { class: 'text' }, named(entry.message, SENTENCE), rest && ' ', rest && el('span', { class: 'dim' }, named(rest, SENTENCE))));
});
lines.wants = ({ text }) => text.includes($('log-filter').value.trim().toLowerCase());
views.log = () => { if (!log.paused) lines.draw(); };

function addLine(entry) {
  const fields = entry.fields ?? {};
  const text = [entry.message, fields.client_ip, fields.backend, fields.host, fields.error, fields.source].join(' ');
  lines.add({ entry, text: plain(text).toLowerCase() });
  draw('log');
}

function logState(state) {
  log.polling = state === 'polling';
  $('log-state').textContent = T.logState[log.paused ? 'paused' : state];
}

async function follow() {
  stopLog();
  if (document.hidden || link.state === 'off') return;
  const abort = new AbortController();
  log.abort = abort;
  log.heard = now();
  const headers = { ...authorization(), ...(log.id && { 'Last-Event-ID': log.id }) };
  const level = $('log-level').value;
  try {
    const answer = await fetch(`${API}logs/stream?level=${level}&tail=${TAIL}`, { headers, signal: abort.signal, cache: 'no-store' });
    if (!answer.ok) throw answer.status;
    logState('live');
    draw('log');
    await readStream(answer.body.pipeThrough(new TextDecoderStream()).getReader());
  } catch (error) {
    if (log.abort !== abort) return;
    if (error === 503) {
      logState('polling');
      load('log');
    }
  }
  if (log.abort !== abort) return;
  log.abort = null;
  if (!log.polling) logState('waiting');
  log.timer = setTimeout(follow, 1000 * log.delay * (1 + Math.random() / 2));
  log.delay = Math.min(30, 2 * log.delay);
}

// Server-sent events, as our daemon writes them.
async function readStream(reader) {
  let text = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    log.heard = now();
    log.delay = 1;
    text += value;
    const messages = text.split('\n\n');
    text = messages.pop();
    if (text.length > 1e6) return;
    for (const message of messages) {
      let data = '';
      for (const line of message.split('\n')) {
        if (line.startsWith('data: ')) data += line.slice(6);
        else if (line.startsWith('id: ')) log.id = line.slice(4);
      }
      const entry = data && JSON.parse(data);
      if (entry && entry.type !== 'connected') addLine(entry);
    }
  }
}

function stopLog() {
  clearTimeout(log.timer);
  const { abort } = log;
  log.abort = null;
  abort?.abort();
}

// ---------------------------------------------------------------------------- routes

// All of them, in the order in which they are asked, and what the last question met in each.
const routes = { all: [], met: new Map() };

const routeTable = new Table(document.querySelector('#routes table'), [
  { title: T.route, class: 'name', text: (r) => r.name, node: (r) => named(r.name, SHORT) },
  { title: T.backend, class: 'backend', text: (r) => r.backend, node: (r) => named(r.backend, SHORT) },
  { title: T.takes, class: 'host', text: covers, node: (r, text) => named(text) },
  {
    title: T.answer, class: 'why', text: (r) => (r.enabled ? '' : T.disabled) + JSON.stringify(routes.met.get(r.name) ?? ''),
    node(r) {
      const met = routes.met.get(r.name);
      if (!met) return el('span', { class: 'dim' }, r.enabled ? '' : T.disabled);
      const pattern = met.pattern && el('small', null, named(T.byPattern(met.pattern)));
      return el('div', null, met.matched ? el('b', { class: 'good' }, T.yes) : named(met.why, SENTENCE), pattern);
    },
  },
], {
  key: (r) => r.name, row: (r) => ({ 'data-route': r.name, 'data-matched': String(routes.met.get(r.name)?.matched ?? '') }),
  empty: T.none.routes,
});
views.routes = () => routeTable.draw(routes.all);

function covers(route) {
  const parts = [...route.domains, ...route.cidrs];
  if (route.list) parts.push(T.listed(route.list, route.list_entries));
  if (!parts.length) parts.push(T.anything);
  if (route.ports.length) parts.push(T.ports(route.ports.join(', ')));
  if (route.clients.length) parts.push(T.ofClients(route.clients.join(', ')));
  return parts.join(', ');
}

async function ask(event) {
  event.preventDefault();
  const question = { host: $('route-host').value.trim() };
  const client = $('route-client').value.trim(), port = $('route-port').valueAsNumber;
  if (client) question.client_ip = client;
  if (port) question.port = port;
  const verdict = $('route-verdict'), carriers = [];
  routes.met.clear();
  try {
    const answer = await api('routes/test', { body: question });
    const target = `${answer.host.includes(':') ? `[${answer.host}]` : answer.host}:${answer.port}`;
    const goes = answer.route ? T.goes(target, answer.route, answer.backend?.name) : T.nowhere(target);
    const refused = answer.allowed ? '' : T.wouldRefuse(answer.reason, answer.message);
    verdict.replaceChildren(named(goes, SENTENCE), ' ', named(refused, SENTENCE));
    verdict.className = answer.allowed ? 'good' : 'bad';
    carriers.push(...carriersOf(T.carriers, answer.carriers), ...carriersOf(T.others, answer.others));
    for (const met of answer.candidates) routes.met.set(met.route, met);
    if (answer.candidates.some((met) => !routes.all.some((route) => route.name === met.route))) load('routes');
  } catch (error) {
    verdict.textContent = error.told();
    verdict.className = 'bad';
  }
  $('route-carriers').replaceChildren(...carriers);
  draw('routes');
}

function carriersOf(title, states) {
  if (!states?.length) return [];
  const list = states.slice(0, 50).map((one) => el('li', null, named(one.name, SHORT), ' ', badgeOf(one.state), ' ', named(one.reason)));
  return [el('p', null, title), el('ul', { class: 'chips' }, ...list)];
}

// ---------------------------------------------------------------------------- mesh

async function loadMesh() {
  const { networks } = await api('mesh/networks');
  const parts = [];
  for (const network of networks.slice(0, 16)) {
    const { peers } = await api(`mesh/networks/${encodeURIComponent(network.id)}/peers`);
    const title = plain(network.name || network.id);
    const head = el('h3', null, named(title), ' ', el('code', null, plain(network.cidr)), ' ', el('span', { class: 'dim' }, T.peers(peers.length)));
    const table = el('table');
    parts.push(head, el('div', { class: 'scroll', tabindex: '0', role: 'group', 'aria-label': T.peersTable(title) }, table));
    const seen = (peer) => (peer.last_seen ? span((Date.now() - local(peer.last_seen)) / 1000) : '');
    const places = (peer) => (peer.endpoints ?? []).map((one) => `${one.address}:${one.port}`).join(', ');
    new Table(table, [
      { title: T.name, class: 'name', text: (p) => p.name, node: (p) => el('div', null, named(p.name || p.id), el('small', null, named(p.id))) },
      { title: T.address, class: 'client', text: (p) => p.virtual_ip, node: (p) => named(p.virtual_ip) },
      { title: T.endpoints, class: 'host', text: places, node: (p) => named(places(p)) },
      { title: T.seen, class: 'number', text: seen },
    ], { key: (p) => p.id, row: (p) => ({ 'data-peer': p.id }), empty: T.none.mesh }).draw(peers.slice(0, 256));
  }
  // Made anew only where something else is to be seen: who reads or tabs through it stays there.
  const old = $('mesh-list');
  const fresh = el('div', { id: 'mesh-list' }, ...parts);
  if (!fresh.isEqualNode(old)) old.replaceWith(fresh);
  $('mesh').hidden = !networks.length;
  document.querySelector('#nav [href="#mesh"]').hidden = !networks.length;
}

// ---------------------------------------------------------------------------- the API

let token = '';

class Failed extends Error {
  constructor(status, word, message) {
    super(message);
    Object.assign(this, { status, word });
  }

  told() {
    return this.word === 'read_only' ? T.readOnly : T.failure(plain(this.message));
  }
}

const authorization = () => (token ? { Authorization: `Bearer ${token}` } : {});

async function api(path, { method, body } = {}) {
  const headers = { ...authorization(), ...(body && { 'Content-Type': 'application/json' }) };
  let answer, found;
  try {
    answer = await fetch(API + path, {
      method: method ?? (body ? 'POST' : 'GET'), headers, body: body && JSON.stringify(body),
      cache: 'no-store', signal: AbortSignal.timeout(2 * PATIENCE),
    });
    found = await answer.json();
  } catch {
    throw new Failed(answer && !answer.ok ? answer.status : 0, '', T.noAnswer);
  }
  if (answer.ok) return found;
  const failed = new Failed(answer.status, found?.error, found?.message ?? '');
  if (answer.status === 401 || found?.error === 'too_many_wrong_tokens') signIn(failed);
  throw failed;
}

const loaders = {
  async status() {
    const status = await api('status');
    setClock(status.time);
    if (link.boot && status.boot !== link.boot) restarted(status.time);
    link.boot = status.boot ?? '';
    overview.status = status;
    overview.since = Date.now() - status.uptime * 1000;
    setFaults(status.config_errors);
    draw('facts');
  },
  async stats() { setStats(await api('stats')); },
  async backends() { setBackends(await api('backends')); },
  async connections() {
    connections.window = { opened: new Set(), closed: new Set() };
    setConnections((await api('connections')).connections);
  },
  async clients() {
    const found = await api('connections/clients');
    clients = found.clients.slice(0, CLIENTS).map((one) => ({ ...one, sent: one.bytes_sent, received: one.bytes_received }));
    draw('clients');
  },
  async requests() {
    if (link.ws) { closed.prime((await api(`requests?limit=${CLOSED}`)).requests); return; }
    const { requests } = await api(`requests?limit=${CLOSED}&since=${link.request}`);
    link.request = requests[0]?.id ?? link.request;
    for (const one of requests.reverse()) ended({ ...one, reason: one.error || 'closed' }, one.timestamp, 'r');
  },
  async routes() {
    routes.all = (await api('routes')).slice(0, SHOWN);
    draw('routes');
  },
  mesh: loadMesh,
  async log() {
    const { entries } = await api(`logs?limit=${TAIL}&level=${$('log-level').value}`);
    lines.clear();
    for (const entry of entries.reverse()) addLine(entry);
    draw('log');
  },
};

// One of a kind at a time; what is asked for meanwhile is asked for once more.
const busy = new Map();
function load(kind) {
  const running = busy.get(kind);
  if (running) { running.again = true; return running.promise; }
  const run = { again: false };
  run.promise = (async () => {
    try {
      do {
        run.again = false;
        await loaders[kind]();
      } while (run.again);
    } finally {
      busy.delete(kind);
    }
  })();
  busy.set(kind, run);
  run.promise.catch(() => {}); // who waits for it is told; nobody else has to hear
  return run.promise;
}

async function loadAll(...more) {
  link.missing = false;
  for (const kind of ['connections', 'backends', 'clients', ...more]) {
    try { await load(kind); } catch { link.missing = true; } // once more, soon
  }
}

// ---------------------------------------------------------------------------- the link

const link = {
  state: 'connecting', ws: null, turn: 0, timer: 0, delay: 1, seq: 0, boot: '', synced: null, request: 0,
  heard: 0, word: 0, pinged: 0, asked: 0, silentSince: 0, whole: true, polled: false, since: '', primed: false, next: 0,
};

function setState(state) {
  link.state = state;
  const badge = $('badge');
  const dated = (state === 'stale' || state === 'reconnecting') && link.word;
  const text = T.badge[state] + (dated ? T.asOf(written(clock, link.word)) : '');
  badge.dataset.state = state;
  badge.title = T.badgeWhy[state] ?? '';
  if (badge.textContent !== text) badge.textContent = text;
  drawSign();
}

function stopLink() {
  link.turn += 1;
  clearTimeout(link.timer);
  const { ws } = link;
  link.ws = null;
  ws?.close();
}

// Begin at once, by asking whether we may.
async function connect() {
  stopLink();
  if (document.hidden) { setState('paused'); return; }
  const { turn } = link;
  setState(link.word ? 'reconnecting' : 'connecting');
  try {
    await load('status');
  } catch {
    if (turn === link.turn && link.state !== 'off') retry();
    return;
  }
  if (turn === link.turn) openSocket();
}

// Between 1 and 30 seconds from now, and not all pages in the same moment.
function retry() {
  stopLink();
  setState('reconnecting');
  link.timer = setTimeout(connect, backOff());
}

function backOff() {
  const wait = 1000 * link.delay * (1 + Math.random() / 4);
  link.delay = Math.min(24, 2 * link.delay);
  return wait;
}

const seats = () => {
  const { count, max } = overview.status?.clients ?? {};
  return !(count >= max);
};

function openSocket() {
  if (!seats()) { poll(); return; }
  const url = new URL('ws', API);
  url.protocol = url.protocol.replace('http', 'ws');
  const { polled } = link; // then begin anew: what was seen by asking has no numbers to go on from
  if (polled) Object.assign(link, { seq: 0, request: 0 });
  link.whole = polled || link.synced !== link.boot;
  url.search = `since=${link.seq}${link.whole ? '' : `&boot=${encodeURIComponent(link.boot)}`}${token && `&token=${encodeURIComponent(token)}`}`;
  let ws;
  try { ws = new WebSocket(url); } catch { poll(); return; }
  link.ws = ws;
  let open = false;
  const patience = setTimeout(() => ws.close(), PATIENCE);
  ws.onopen = () => {
    clearTimeout(patience);
    if (link.ws !== ws) return;
    open = true;
    if (polled) { closed.items = []; timeline.clear(); }
    Object.assign(link, { polled: false, heard: now(), word: Date.now(), pinged: now(), asked: 0, primed: !link.whole, synced: link.boot });
    link.since = new Date(Date.now() + skew).toISOString();
    overview.base = null; // the counters of a time that we did not see are no rate
    setState('live');
    loadAll('routes', 'mesh', 'status'); // who watches, ourselves included
    draw('events', 'closed');
    if (!log.abort) follow();
  };
  ws.onmessage = ({ data }) => {
    if (link.ws !== ws) return;
    Object.assign(link, { heard: now(), word: Date.now(), asked: 0, delay: 1 });
    if (link.state === 'stale') setState('live');
    if (data !== 'pong') onEvent(JSON.parse(data));
  };
  ws.onclose = () => {
    clearTimeout(patience);
    if (link.ws !== ws) return;
    link.ws = null;
    if (open) retry(); else poll();
  };
}

// What was closed before the events begin, once they are there.
function prime() {
  if (link.primed || !link.ws) return;
  link.primed = true;
  load('requests');
}

function restarted(timestamp) {
  Object.assign(link, { seq: 0, request: 0 });
  connections.all.clear();
  timeline.add({ type: 'events.lost', data: { lost: null }, timestamp }, 1);
  draw('connections', 'events');
}

// Without a WebSocket: ask, and look for a seat now and then.
async function poll() {
  const { turn } = link;
  link.next = now() + backOff();
  if (link.state !== 'polling') {
    setState('polling');
    link.polled = true;
    if (!log.abort) follow();
    load('routes');
    load('mesh');
  }
  await pollOnce(turn);
}

async function pollOnce(turn) {
  link.asked = now();
  try {
    for (const kind of ['status', 'stats', 'backends', 'connections', 'clients', 'requests']) {
      if (kind !== 'connections' || !connections.paused) await load(kind);
      if (turn !== link.turn || link.ws) return;
      link.word = Date.now();
    }
  } catch {
    if (turn === link.turn && link.state === 'polling' && !link.ws) retry();
  }
}

// Every second: is it live, and what has to be looked at again?
const looked = { at: 0, mesh: 0, status: 0 };
function tick() {
  if (document.hidden || link.state === 'off') return;
  const at = now();
  if (link.ws && (link.state === 'live' || link.state === 'stale')) heartbeat(at);
  else if (link.state === 'polling' && !link.ws) {
    if (at - link.asked >= REFRESH) pollOnce(link.turn);
    if (at >= link.next && seats()) openSocket();
  }
  if (log.abort && at - log.heard > 2 * STALE) follow();
  if (at - looked.at < REFRESH) return;
  looked.at = at;
  if (log.polling && !log.paused) load('log');
  if (link.state === 'live' && link.missing) loadAll('routes');
  else if (link.state === 'live') look(at);
  draw('facts', 'backends');
  drawConnections();
}

function heartbeat(at) {
  const silent = at - link.heard;
  if (link.state === 'live' && silent > STALE) {
    link.silentSince = at;
    setState('stale');
  } else if (link.state === 'stale' && at - link.silentSince > DROP) {
    retry();
    return;
  }
  if (at - link.pinged > PING || (silent > ASK && !link.asked)) {
    link.pinged = at;
    link.asked = at;
    if (link.ws.readyState === WebSocket.OPEN) link.ws.send('ping');
  }
  prime();
}

const visible = new Set();
function look(at) {
  const kinds = ['backends', 'clients'].filter((kind) => visible.has(kind));
  if (visible.has('connections') && !connections.paused) kinds.unshift('connections');
  if (at - (overview.counted ?? 0) > 2 * REFRESH) kinds.push('stats'); // the daemon tells none
  if (at - looked.status > 3 * REFRESH) { kinds.push('status'); looked.status = at; }
  if (at - looked.mesh > 6 * REFRESH) { kinds.push('mesh'); looked.mesh = at; }
  (async () => {
    for (const kind of kinds) await load(kind);
  })().catch(() => {}); // the badge tells
}

// ---------------------------------------------------------------------------- the token

const KEY = 'bifrost-token';

function keepToken(text) {
  token = text;
  try {
    if (text) sessionStorage.setItem(KEY, text); else sessionStorage.removeItem(KEY);
  } catch { /* kept by this page alone */ }
}

function readToken() {
  try { token = sessionStorage.getItem(KEY) ?? ''; } catch { /* there is none */ }
  takeFragment();
}

// #token=...: taken, and out of the address bar before anybody sees it.
function takeFragment() {
  const found = /^#token=(.*)$/.exec(location.hash);
  if (!found) return false;
  history.replaceState(null, '', location.pathname + location.search);
  let text = found[1];
  try { text = decodeURIComponent(text); } catch { /* it is as it is */ }
  keepToken(text);
  return true;
}

function signIn(failed) {
  const tried = token !== '';
  stopLink();
  stopLog();
  if (tried) keepToken('');
  setState('off');
  $('login-error').textContent = !tried && failed?.status === 401 ? '' : failed ? refusal(failed) : '';
  if (!$('login').open) $('login').showModal();
}

const refusal = (failed) => (failed.status === 401 ? T.wrongToken : plain(failed.message));

async function enter(event) {
  event.preventDefault();
  const text = $('token').value.trim();
  token = text;
  $('login-error').textContent = '';
  try {
    await loaders.status();
  } catch (error) {
    token = '';
    $('login-error').textContent = refusal(error);
    $('token').select();
    return;
  }
  keepToken(text);
  $('token').value = '';
  $('login').close();
  link.delay = 1;
  connect();
}

function drawSign() {
  const out = link.state !== 'off';
  $('sign').hidden = out && !token;
  $('sign').textContent = out ? T.signOut : T.signIn;
}

function sign() {
  if (link.state === 'off') { $('login').showModal(); return; }
  keepToken('');
  location.reload(); // nothing of what was seen stays
}

// ---------------------------------------------------------------------------- the start

function toggle(button, changed) {
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', on);
    changed(on);
  });
}

function translate() {
  document.title = `${location.hostname} – bifrost-lite`;
  for (const element of document.querySelectorAll('[data-t]')) element.textContent = T[element.dataset.t];
  for (const element of document.querySelectorAll('[data-label-t]')) element.setAttribute('aria-label', T[element.dataset.labelT]);
  for (const element of document.querySelectorAll('[data-hint-t]')) element.placeholder = T[element.dataset.hintT];
  for (const section of document.querySelectorAll('main > section')) {
    const { id } = section;
    $('nav').append(el('a', { href: `#${id}`, hidden: section.hidden }, T[`${id}Short`] ?? T[id]));
  }
  for (const [value, text] of [['', T.everything], ['calm', T.quiet]]) $('events-show').append(el('option', { value }, text));
  for (const level of LEVELS) $('log-level').append(el('option', { value: level, selected: level === 'info' }, level));
}

function listen() {
  for (const input of [$('filter-client'), $('filter-host')]) {
    input.addEventListener('input', () => (armed.ids ? disarm() : drawConnections(true)));
  }
  toggle($('pause'), (on) => {
    connections.paused = on;
    if (on) return;
    load('connections');
    draw('connections');
  });
  $('close-shown').addEventListener('click', closeShown);
  $('events-show').addEventListener('change', (event) => {
    timeline.calm = event.target.value !== '';
    timeline.redo();
    draw('events');
  });
  toggle($('log-pause'), (on) => {
    log.paused = on;
    logState(log.polling ? 'polling' : log.abort ? 'live' : 'waiting');
    draw('log');
  });
  $('log-filter').addEventListener('input', () => { lines.redo(); draw('log'); });
  $('log-level').addEventListener('change', () => {
    lines.clear();
    draw('log');
    Object.assign(log, { id: '', delay: 1 });
    follow();
  });
  $('route-form').addEventListener('submit', ask);
  $('login-form').addEventListener('submit', enter);
  $('login-cancel').addEventListener('click', () => $('login').close());
  $('sign').addEventListener('click', sign);
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden) {
      if (link.state === 'paused') { link.delay = 1; connect(); follow(); }
    } else if (link.state !== 'off') {
      stopLink();
      stopLog();
      setState('paused');
    }
  });
  addEventListener('online', () => { if (link.state === 'reconnecting') connect(); });
  addEventListener('hashchange', () => {
    if (!takeFragment()) return;
    if ($('login').open) $('login').close();
    connect();
  });
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (!isIntersecting) { visible.delete(target.id); continue; }
      visible.add(target.id);
      looked.at = 0; // it may be old: look again soon
    }
  });
  for (const section of document.querySelectorAll('main > section')) observer.observe(section);
}

translate();
buildGraphs();
listen();
readToken();
setInterval(tick, 1000);
connect();
