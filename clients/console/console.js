// The operators' console: the messages of some sites, as they come. It has no
// state but its address, which says what is shown, and of which deployment.

import { watch } from './logstream.js';

const LEVELS = ['debug', 'info', 'warning', 'error', 'critical'];
const HISTORY = 24 * 60 * 60; // seconds that are shown without being asked for
const MAX = 10_000; // messages that are kept,
const MAX_READING = 20_000; // and while somebody reads further up
const MAX_SITES = 10; // the server's limit
const OLDER = 500; // messages that are asked for at once when somebody scrolls up
const CHUNK = 50; // rows that the browser lays out together, or not at all
const BUDGET = 6; // milliseconds of a frame for new rows
const QUIET = 5; // seconds between two alarms
const NAMES = { connecting: 'Connecting', 'catching up': 'Catching up', live: 'Live', offline: 'Offline' };

const $ = (selector) => document.querySelector(selector);
const log = $('#log'), list = $('#rows');
const number = new Intl.NumberFormat('en');
const seconds = () => Date.now() / 1000;

// ---- The settings, which are the query string

let settings = settingsOf(location.search);

function settingsOf(search) {
  const query = new URLSearchParams(search);
  const is = (name) => query.has(name) && !['0', 'false', 'no'].includes(query.get(name));
  const sites = [...new Set(query.getAll('site').filter(Boolean))].slice(0, MAX_SITES);
  return {
    http: query.get('http'),
    ws: query.get('ws'),
    sites: sites.length > 0 ? sites : ['tst'],
    level: LEVELS.includes(query.get('level')) ? query.get('level') : 'debug',
    search: query.get('q') ?? '',
    utc: is('utc'),
    sound: is('sound'),
    notify: is('notify'),
  };
}

// What an address asks for and does not get.
function ignored(search) {
  const query = new URLSearchParams(search);
  const count = new Set(query.getAll('site').filter(Boolean)).size;
  const level = query.get('level');
  return [
    count > MAX_SITES && `${MAX_SITES} sites at most: the last ${count - MAX_SITES} of ${count} are left out.`,
    level && !LEVELS.includes(level) && `There is no level ${level}: all are shown.`,
  ].filter(Boolean).join(' ');
}

function queryOf({ http, ws, sites, level, search, ...flags }) {
  const query = new URLSearchParams();
  if (http) query.set('http', http);
  if (ws) query.set('ws', ws);
  for (const site of sites) query.append('site', site);
  if (level !== 'debug') query.set('level', level);
  if (search) query.set('q', search);
  for (const name of ['utc', 'sound', 'notify']) if (flags[name]) query.set(name, '');
  return `?${query}`.replace(/(utc|sound|notify)=(?=&|$)/g, '$1');
}

// A change of the sites is a step back for the browser; the rest is not.
function change(changes, isStep = false) {
  const query = queryOf({ ...settings, ...changes });
  history[isStep ? 'pushState' : 'replaceState'](null, '', query);
  apply(settingsOf(query));
}

function apply(next) {
  const last = settings;
  settings = next;
  drawSettings();
  if (JSON.stringify([last.sites, last.level]) !== JSON.stringify([next.sites, next.level])) {
    clear();
    watching?.show(next.sites, next.level);
  } else if (last.search !== next.search || last.utc !== next.utc) {
    // What was in view stays in view, so that a search can be left at a find.
    rebuild(isAtEnd && !last.search ? undefined : inView());
  }
}

function drawSettings() {
  const { sites, level, search, utc, sound, notify } = settings;
  $('#sites').replaceChildren(...sites.map((site) => {
    const item = document.createElement('li');
    const name = document.createElement('span');
    name.textContent = name.title = site;
    item.append(name);
    if (sites.length > 1) {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = '×';
      button.setAttribute('aria-label', `Remove ${site}`);
      button.onclick = () => {
        change({ sites: sites.filter((other) => other !== site) }, true);
        $('#site').focus();
      };
      item.append(button);
    }
    return item;
  }));
  const isFull = sites.length === MAX_SITES;
  $('#site').disabled = isFull;
  $('#site').placeholder = isFull ? `${MAX_SITES} sites at most` : 'Add a site';
  $('#least').value = level;
  // They are out of sight on a phone.
  const filters = (level !== 'debug') + (search !== '');
  set($('#open-filters'), filters > 0 ? `Filters · ${filters}` : 'Filters');
  if ($('#search').value.trim() !== search) $('#search').value = search;
  $('#utc').checked = utc;
  $('#sound').checked = sound;
  // A bookmark of another browser's may have it.
  $('#notify').checked = notify && globalThis.Notification?.permission === 'granted';
  const to = $('#to').value;
  $('#to').replaceChildren(...sites.map((site) => new Option(site, site, false, site === to)));
  $('#to').hidden = sites.length === 1;
  $('#text').placeholder = sites.length === 1 ? `Message to ${sites[0]}` : 'Message';
  document.body.classList.toggle('several', sites.length > 1);
  drawTitle();
}

// ---- The deployment

// The address before `/recent-logs`, and that of the WebSocket if it is another.
function addresses() {
  const own = new URL('.', location);
  const http = settings.http ? addressOf('http', settings.http, own) : own;
  return { http, ws: settings.ws ? addressOf('ws', settings.ws, http) : undefined };
}

function addressOf(name, text, base) {
  // `127.0.0.1:3000` would be a path.
  const isAddress = /^([a-z]+:|[./])/i.test(text) && URL.canParse(text, base);
  const url = isAddress ? new URL(text, base) : null;
  if (!url || !/^(https?|wss?):$/.test(url.protocol) || url.username || name === 'http' && !url.protocol.startsWith('http')) {
    const scheme = name === 'http' ? 'https' : 'wss';
    throw new Error(`The address of this page has a wrong '${name}': ${text}; expected one such as ${scheme}://logs.example.org`);
  }
  const isLoopback = /^(localhost|127\.0\.0\.1|\[::1\])$/.test(url.hostname);
  if (location.protocol === 'https:' && /^(http|ws):$/.test(url.protocol) && !isLoopback) {
    throw new Error(`This page came over https, so browsers do not let it use ${text}`);
  }
  url.search = url.hash = '';
  return url;
}

let http, watching;
let state = { state: 'connecting', complete: false };
let wasComplete = false; // ever, for these sites and this level
let problem = ''; // of the address of this page

function start() {
  try {
    const found = addresses();
    http = found.http.href.replace(/\/*$/, '/');
    const { sites, level } = settings;
    watching = watch(
      { http, ws: found.ws?.href, sites, level, seconds: HISTORY, max: MAX },
      { messages: receive, state: (next) => { state = next; drawState(); checkAge(); } },
    );
    if (settings.http) $('#where').textContent = found.http.host;
  } catch (error) {
    problem = error.message;
    $('#send').hidden = true;
  }
  drawState();
}

function drawState() {
  const name = problem ? 'Not connected' : NAMES[state.state];
  const isFirst = !wasComplete && !state.error;
  const completeness = state.complete ? 'complete' : isFirst ? 'loading' : 'messages may be missing';
  $('#state').dataset.state = problem ? 'offline' : state.state;
  $('#state').dataset.complete = state.complete;
  // A change, and only that, is read aloud.
  set($('#state strong'), name);
  set($('#state span'), problem ? '' : completeness);
  set($('#problem'), problem || (state.error === undefined ? ''
    : ['connecting', 'offline'].includes(state.state) ? `${state.error} Trying again…`
    : `The last 24 hours could not be loaded (${state.error}), so messages may be missing. Trying again…`));
  if (state.complete && !wasComplete) {
    wasComplete = true;
    reach = startOfList();
    drawPast();
  }
  drawEmpty();
  drawTitle();
}

const set = (element, text) => { if (element.textContent !== text) element.textContent = text; };

// ---- The messages

let store = []; // all that is kept, sorted; `rows` and `pending` are those of it that match the search
let rows = []; // those that have an element
let pending = []; // those that get one in one of the next frames
const known = new Set(); // the keys of `store` and `waiting`
let waiting = []; // what came during a pause
let isPaused = false;
let hasForgotten = false; // whether so much came during a pause that some of it was dropped
let isAtEnd = true; // whether the newest row is in view; kept, because asking costs a layout
let unread = 0; // rows that came below what somebody reads
let checked = seconds(); // when the list was last known to be complete
let reach; // the id from which on all is in `store`; an older message may have come since

// Ids are decimals of different lengths, some too long for a number.
const compareIds = (a, b) => a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
const compare = (a, b) => compareIds(a.id, b.id) || (a.site < b.site ? -1 : a.site > b.site ? 1 : a.count - b.count);

let count = 0;

function entryOf(message) {
  const { id, site = '', message: text, log_level: name, timestamp } = message;
  const last = (waiting.at(-1) ?? store.at(-1))?.id ?? '';
  const place = String(name).toLowerCase();
  return {
    // What has no id, such as an error, stays where it appeared: at the end.
    id: id ?? [seconds().toFixed(6), last].sort(compareIds)[1],
    site: id === undefined ? '\uffff' : site,
    key: id === undefined ? message : `${id} ${site}`,
    count: count++,
    shownSite: site,
    text: typeof text === 'string' ? text : JSON.stringify(text) ?? '',
    level: LEVELS.includes(place) ? place : 'info',
    milliseconds: timestamp >= 0 && timestamp < 1e11 ? 1000 * timestamp : Date.now(),
  };
}

const isBad = ({ level }) => level === 'error' || level === 'critical';

// At most once for each frame of the screen.
function receive(_, added) {
  const fresh = unknown(added);
  if (wasComplete) alarm(fresh.filter(isBad));
  if (isPaused) {
    waiting = waiting.concat(fresh).sort(compare);
    if (waiting.length > MAX) {
      for (const { key } of waiting.splice(0, waiting.length - MAX)) known.delete(key);
      hasForgotten = true;
    }
    waited += fresh.length;
    drawPause();
  } else {
    add(fresh, true);
  }
}

function unknown(messages) {
  const fresh = [];
  for (const message of messages) {
    const entry = entryOf(message);
    if (known.has(entry.key)) continue;
    known.add(entry.key);
    fresh.push(entry);
  }
  return fresh;
}

function add(fresh, isNew) {
  if (fresh.length > 0) {
    const matching = fresh.filter(matches());
    store = merged(store, fresh);
    pending = merged(pending, matching);
    if (isNew && !isAtEnd) unread += matching.length;
  }
  work();
}

function merged(sorted, fresh) {
  if (fresh.length === 0) return sorted;
  const isBehind = sorted.length === 0 || compare(sorted.at(-1), fresh[0]) < 0;
  const all = sorted.concat(fresh);
  return isBehind && fresh.length === 1 ? all : all.sort(compare);
}

function clear() {
  store = [];
  waiting = [];
  known.clear();
  isPaused = hasForgotten = wasComplete = false;
  waited = 0;
  checked = seconds();
  reach = undefined;
  state = { state: state.state, complete: false };
  forgetPast();
  rebuild();
  drawPause();
  drawState();
}

// After a long sleep, or a long time without a connection, only the last
// HISTORY is fetched: what is older than that may have a gap behind it.
function checkAge() {
  const covered = startOfList();
  if (Number(covered) > checked) {
    dropOldest(store.filter(({ id }) => compareIds(id, covered) < 0).length, covered);
    drawCount();
  }
  if (state.complete) checked = seconds();
}
setInterval(checkAge, 5000);

// The id from which on the client has all, once it is complete.
function startOfList() {
  const { messages } = watching ?? { messages: [] };
  return messages.length >= MAX && messages[0].id || `${Math.floor(seconds() - HISTORY) + 1}.000000`;
}

// What is below `bound`, or below all that is left, can be loaded again.
function dropOldest(count, bound = store[count]?.id) {
  if (count <= 0) return;
  if (reach && bound && compareIds(bound, reach) > 0) reach = bound;
  const dropped = new Set(store.splice(0, count));
  for (const { key } of dropped) known.delete(key);
  const built = rows.findIndex((entry) => !dropped.has(entry));
  for (const entry of rows.splice(0, built < 0 ? rows.length : built)) remove(entry);
  if (pending.length > 0) pending = pending.filter((entry) => !dropped.has(entry));
  mark(0);
  forgetPast();
}

function remove({ element }) {
  const chunk = element.parentNode;
  element.remove();
  if (!chunk.firstChild) chunk.remove();
}

// ---- The search

// All words, in any order, in what a row shows.
function matches() {
  const words = wordsOf(settings.search);
  return (entry) => {
    if (words.length === 0) return true;
    const text = `${entry.shownSite} ${entry.level} ${entry.text}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
}

const wordsOf = (search) => search.toLowerCase().split(/\s+/).filter(Boolean);

// The text, with what was found in it as <mark>.
function marked(text, words) {
  const lower = text.toLowerCase();
  // Some letters change their length in lower case.
  if (words.length === 0 || lower.length !== text.length) return [text];
  const parts = [];
  let from = 0;
  while (from < text.length) {
    let at = -1, length = 0;
    for (const word of words) {
      const found = lower.indexOf(word, from);
      if (found >= 0 && (at < 0 || found < at || found === at && word.length > length)) [at, length] = [found, word.length];
    }
    if (at < 0) break;
    const mark = document.createElement('mark');
    mark.textContent = text.slice(at, at + length);
    parts.push(text.slice(from, at), mark);
    from = at + length;
  }
  parts.push(text.slice(from));
  return parts;
}

// ---- The rows

let isWorking = false;

// Makes rows for what is pending, the newest first, as many as a frame can have.
function work() {
  const words = wordsOf(settings.search);
  const end = performance.now() + BUDGET;
  // Safari does not keep what somebody reads in its place.
  const kept = isAtEnd || CSS.supports('overflow-anchor', 'auto') ? undefined : inView();
  const top = kept?.element.getBoundingClientRect().top;
  const made = [];
  for (let count = 1; pending.length > 0 && (count % 10 !== 0 || performance.now() < end); count++) {
    const entry = pending.pop();
    insert(entry, words);
    made.push(entry);
  }
  for (const entry of made) {
    const at = placeOf(entry);
    mark(at);
    mark(at + 1);
  }
  if (kept) log.scrollTop += kept.element.getBoundingClientRect().top - top;
  const most = isAtEnd ? MAX : MAX_READING;
  dropOldest(Math.min(store.length - most, 500));
  drawCount();
  if ((pending.length > 0 || store.length > most) && !isWorking) {
    isWorking = true;
    requestAnimationFrame(() => { isWorking = false; work(); });
  }
}

// Where an entry is, or belongs, among the rows.
function placeOf(entry) {
  let low = 0, high = rows.length;
  if (high > 0 && compare(rows[high - 1], entry) < 0) return high;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (compare(rows[middle], entry) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

function insert(entry, words) {
  const at = placeOf(entry);
  entry.element = rowOf(entry, words);
  const next = rows[at]?.element, chunk = next ? next.parentNode : list.lastElementChild;
  if (!chunk) list.append(chunkOf(entry.element));
  else if (chunk.childElementCount < CHUNK) chunk.insertBefore(entry.element, next ?? null);
  else if (!next) chunk.after(chunkOf(entry.element));
  else if (at === 0) chunk.before(chunkOf(entry.element));
  else {
    chunk.insertBefore(entry.element, next);
    if (chunk.childElementCount > 2 * CHUNK) chunk.after(chunkOf(...[...chunk.children].slice(CHUNK)));
  }
  rows.splice(at, 0, entry);
}

function chunkOf(...elements) {
  const chunk = document.createElement('ol');
  chunk.append(...elements);
  return chunk;
}

function rowOf(entry, words) {
  const element = $('#row').content.firstElementChild.cloneNode(true);
  const [time, site, level, text] = element.children;
  const stamp = stampOf(entry);
  entry.day = stamp.slice(0, 10);
  entry.isNewDay = false;
  element.className = entry.level;
  time.textContent = stamp.slice(11, 19);
  time.dateTime = new Date(entry.milliseconds).toISOString();
  // The other zone too, and the fraction.
  time.title = `${stampOf(entry, false).replace('T', ' ')}\n${stampOf(entry, true).replace('T', ' ')}`;
  level.textContent = entry.level;
  // Only ever as text: what others send must not become markup.
  site.append(...marked(entry.shownSite, words));
  text.append(...marked(entry.text, words));
  // Not in a search: what was found may be far down.
  if (words.length === 0 && isLong(entry.text)) clamp(element, text);
  return element;
}

// More than some 20 lines. How long a line is, only a layout would tell.
const isLong = (text) => text.length > 3 * screen.width || text.split('\n', 22).length > 21;

function clamp(element, text) {
  const button = document.createElement('button');
  button.type = 'button';
  button.className = 'all';
  const draw = (isOpen) => {
    text.classList.toggle('clamped', !isOpen);
    button.textContent = isOpen ? 'Show less' : 'Show all';
    button.setAttribute('aria-expanded', isOpen);
  };
  button.onclick = () => {
    const isOpen = button.getAttribute('aria-expanded') !== 'true';
    // The beginning stays in view, or the button that was pressed.
    const kept = isOpen ? element : button, { top } = kept.getBoundingClientRect();
    draw(isOpen);
    log.scrollTop += kept.getBoundingClientRect().top - top;
  };
  draw(false);
  element.append(button);
}

// "2020-11-04T18:21:03.418Z", or with the offset of this computer's zone.
function stampOf({ milliseconds }, isUtc = settings.utc) {
  const date = new Date(milliseconds);
  const offset = isUtc ? 0 : -date.getTimezoneOffset();
  const text = new Date(date.getTime() + 60_000 * offset).toISOString().slice(0, -1);
  if (isUtc) return `${text}Z`;
  const two = (count) => String(count).padStart(2, '0');
  const size = Math.abs(offset);
  return `${text}${offset < 0 ? '-' : '+'}${two(Math.floor(size / 60))}:${two(size % 60)}`;
}

const DAY = new Intl.DateTimeFormat('en-GB', { dateStyle: 'full', timeZone: 'UTC' });

// The first row of a day shows its name.
function mark(at) {
  const entry = rows[at];
  if (!entry) return;
  const isNewDay = entry.day !== rows[at - 1]?.day;
  if (isNewDay === entry.isNewDay) return;
  entry.isNewDay = isNewDay;
  if (!isNewDay) {
    entry.element.querySelector('.day').remove();
    return;
  }
  const day = document.createElement('span');
  day.className = 'day';
  day.textContent = `${DAY.format(new Date(`${entry.day}T00:00:00Z`))}, ${settings.utc ? 'UTC' : 'local time'}`;
  entry.element.prepend(day);
}

// Draws everything again, with the entry where it was.
function rebuild(kept) {
  const top = kept?.element.getBoundingClientRect().top;
  for (const entry of rows) entry.element = undefined;
  rows = [];
  pending = store.filter(matches());
  list.replaceChildren();
  log.scrollTop = 0;
  unread = 0;
  if (kept && pending.includes(kept)) {
    const words = wordsOf(settings.search);
    const below = Math.max(0, pending.indexOf(kept) - CHUNK);
    for (const entry of pending.splice(below).reverse()) insert(entry, words);
    rows.forEach((_, at) => mark(at));
    log.scrollTop += kept.element.getBoundingClientRect().top - top;
  }
  work();
  drawEnd();
}

// The row in the middle of what can be seen.
function inView() {
  const { left, top, width, height } = log.getBoundingClientRect();
  const element = document.elementFromPoint(left + width / 2, top + height / 2)?.closest('li');
  return rows.find((entry) => entry.element === element) ?? rows.at(-1);
}

function drawCount() {
  const shown = rows.length + pending.length;
  const all = number.format(store.length);
  set($('#count'), settings.search ? `${number.format(shown)} of ${all}` : `${all} message${store.length === 1 ? '' : 's'}`);
  drawEmpty();
  drawEnd();
}

function drawEmpty() {
  let text = '';
  if (rows.length + pending.length > 0 || problem) text = '';
  else if (store.length > 0) text = `Nothing matches “${settings.search}” in ${number.format(store.length)} messages.`;
  else if (state.complete) text = 'No messages in the last 24 hours.';
  else if (!wasComplete && state.error === undefined) text = 'Loading the last 24 hours…';
  set($('#empty'), text);
}

// ---- Scrolling, and the end of the list

function drawEnd() {
  if (isAtEnd) unread = 0;
  $('#newest').hidden = isAtEnd;
  set($('#newest'), unread > 0 ? `↓ ${number.format(unread)} new` : '↓ Newest');
}

log.onscroll = () => {
  // The list is scrolled from its end: that is at 0, and all else below 0.
  isAtEnd = log.scrollTop > -40;
  drawEnd();
  // Near the top, by whoever has scrolled there.
  if (!isAtEnd && log.scrollHeight - log.clientHeight + log.scrollTop < 600 && !pastFailure) loadPast();
  if (isAtEnd && store.length > MAX) work();
};

let climbing;

function toNewest() {
  cancelAnimationFrame(climbing);
  log.scrollTop = 0;
  log.focus({ preventScroll: true });
}
$('#newest').onclick = toNewest;

// Again in the next frames: rows that come into view may turn out to be higher
// than the browser has guessed.
function toOldest(times = 3) {
  log.scrollTop = -log.scrollHeight;
  if (times > 1) climbing = requestAnimationFrame(() => toOldest(times - 1));
}

// ---- What is older

let past; // the running request
let pastNext; // the address of the next page
let isPastEnd = false;
let pastFailure = '';

function forgetPast() {
  past?.abort();
  past = pastNext = undefined;
  isPastEnd = false;
  pastFailure = '';
  drawPast();
}

async function loadPast() {
  if (past || isPastEnd || !wasComplete || pending.length > 0) return;
  const run = new AbortController();
  past = run;
  pastFailure = '';
  drawPast();
  try {
    let url = pastNext;
    if (!url) {
      const query = new URLSearchParams(settings.sites.map((site) => ['site', site]));
      if (settings.level !== 'debug') query.set('level', settings.level);
      query.set('limit', OLDER);
      query.set('before', reach);
      url = new URL(`recent-logs?${query}`, http);
    }
    // With a level, or at an age, a page may be empty and not the last one.
    for (let fresh = []; fresh.length === 0 && url;) {
      const answer = await request(url, { cache: 'no-store', signal: AbortSignal.any([run.signal, AbortSignal.timeout(30_000)]) });
      const messages = await answer.json();
      if (run.signal.aborted) return;
      const next = /<([^>]*)>\s*;\s*rel="?next"?/.exec(answer.headers.get('Link'));
      url = pastNext = next && new URL(next[1], url);
      if (messages.length > 0) reach = messages.at(-1).id;
      fresh = unknown(messages.map((message) => ({ site: settings.sites[0], ...message })));
      add(fresh, false);
    }
    isPastEnd = !url;
  } catch (error) {
    if (run.signal.aborted) return;
    pastFailure = error.message;
  }
  past = undefined;
  drawPast();
}

function drawPast() {
  const button = $('#older');
  set($('#past-text'), isPastEnd ? 'There are no older messages.'
    : pastFailure ? `Older messages could not be loaded (${pastFailure}).` : '');
  set(button, past ? 'Loading older messages…' : 'Load older messages');
  // Not hidden or disabled before the end: it may have the keyboard.
  if (isPastEnd && document.activeElement === button) log.focus({ preventScroll: true });
  button.hidden = isPastEnd || !wasComplete;
}
$('#older').onclick = loadPast;

// Fetches, or throws an error with a text for the user.
async function request(url, options) {
  const response = await fetch(url, options).catch(() => { throw new Error('no answer from the server'); });
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Error(body?.message ?? `status ${response.status}`);
}

// ---- The pause

let waited = 0;

function pause(isOn) {
  if (isPaused === isOn) return;
  isPaused = isOn;
  if (!isOn) {
    const fresh = waiting;
    waiting = [];
    waited = 0;
    if (hasForgotten) {
      hasForgotten = false;
      dropOldest(store.length, fresh[0].id);
    }
    add(fresh, true);
  }
  drawPause();
}

function drawPause() {
  const text = !isPaused ? 'Pause' : `Resume · ${number.format(waited)} waiting`;
  set($('#pause .label'), text);
  document.body.classList.toggle('paused', isPaused);
}
$('#pause').onclick = () => pause(!isPaused);

// ---- Alarms: errors that come while the page is open

let unseen = 0; // since somebody last looked
let unsaid = 0, lastBad;
let isQuiet = false;
let audio;
let isWaking = false;

const isLookedAt = () => document.visibilityState === 'visible' && document.hasFocus();

function alarm(bad) {
  if (bad.length === 0) return;
  if (!isLookedAt()) unseen += bad.length;
  drawTitle();
  unsaid += bad.length;
  lastBad = bad.at(-1);
  if (!isQuiet) say();
}

// At once, and then not again for a while: a flood must not be read aloud.
function say() {
  if (unsaid === 0) return;
  const name = `${lastBad.level} at ${lastBad.shownSite}: ${lastBad.text.slice(0, 200)}`;
  const text = unsaid === 1 ? name : `${unsaid} errors, the last one: ${name}`;
  $('#spoken').textContent = text;
  if (settings.sound) beep();
  if (settings.notify && document.visibilityState === 'hidden') notify(text);
  unsaid = 0;
  isQuiet = true;
  setTimeout(() => { isQuiet = false; say(); }, QUIET * 1000);
}

// Browsers are silent until somebody has clicked or typed in the page. What was
// to be heard before is heard then, once.
async function beep() {
  audio ??= new AudioContext();
  if (isWaking) return;
  isWaking = true;
  await audio.resume();
  isWaking = false;
  const volume = audio.createGain();
  volume.connect(audio.destination);
  for (const [start, frequency] of [[0, 880], [0.18, 660]]) {
    const tone = audio.createOscillator();
    tone.frequency.value = frequency;
    tone.connect(volume);
    tone.start(audio.currentTime + start);
    tone.stop(audio.currentTime + start + 0.15);
  }
  volume.gain.setValueAtTime(0.2, audio.currentTime);
  volume.gain.exponentialRampToValueAtTime(0.001, audio.currentTime + 0.4);
}

for (const type of ['pointerdown', 'keydown']) addEventListener(type, () => { if (isWaking) audio.resume(); });

function notify(text) {
  try {
    const shown = new Notification('Logstream', { body: text, tag: 'logstream' });
    shown.onclick = () => { focus(); shown.close(); };
  } catch {
    // Phones show none without a service worker.
  }
}

$('#sound').onchange = ({ target }) => {
  change({ sound: target.checked });
  // To hear what it is, and because browsers allow it after a click only.
  if (target.checked) beep();
};

$('#notify').onchange = async ({ target }) => {
  if (!target.checked) return change({ notify: false });
  const permission = globalThis.Notification ? await Notification.requestPermission() : 'missing';
  change({ notify: permission === 'granted' });
  if (permission !== 'granted') {
    tell(!globalThis.isSecureContext ? 'Browsers show notifications only of pages over https.' : 'The browser does not allow notifications of this page.');
  }
};

function look() {
  if (!isLookedAt() || unseen === 0) return;
  unseen = 0;
  drawTitle();
}
addEventListener('focus', look);
document.addEventListener('visibilitychange', look);

// The number of errors that nobody has looked at, and a sign for the tab: a
// disc, a ring without a connection, a square with errors.
function drawTitle() {
  document.title = `${unseen > 0 ? `(${number.format(unseen)}) ` : ''}${settings.sites.join(', ')} · Logstream`;
  const shape = unseen > 0 ? '<rect x="1" y="1" width="14" height="14" rx="3" fill="#c81e28"/><path d="M8 3.5v5.5M8 11.2v1.6" stroke="#fff" stroke-width="2.2"/>'
    : state.state === 'live' ? '<circle cx="8" cy="8" r="7" fill="#1d8a45"/>'
    : '<circle cx="8" cy="8" r="5.5" fill="none" stroke="#8a94a0" stroke-width="3"/>';
  const icon = `data:image/svg+xml,${encodeURIComponent(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">${shape}</svg>`)}`;
  if ($('link[rel=icon]').href !== icon) $('link[rel=icon]').href = icon;
}

// ---- Copying

const lineOf = (entry) => `${stampOf(entry)}  ${entry.shownSite}  ${entry.level.toUpperCase()}  ${entry.text}`;

async function copy() {
  const shown = store.filter(matches());
  if (shown.length === 0) return tell('There is nothing to copy.');
  const text = shown.map((entry) => `${lineOf(entry)}\n`).join('');
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages without https have no `clipboard`.
    const field = document.createElement('textarea');
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand('copy');
    field.remove();
  }
  tell(`${number.format(shown.length)} message${shown.length === 1 ? '' : 's'} copied.`);
}
$('#copy').onclick = copy;

// A selection of several rows is copied as lines.
document.addEventListener('copy', (event) => {
  const selection = getSelection();
  if (selection.isCollapsed || !log.contains(selection.anchorNode) && !log.contains(selection.focusNode)) return;
  const range = selection.getRangeAt(0);
  const selected = rows.filter(({ element }) => range.intersectsNode(element));
  if (selected.length < 2) return;
  event.clipboardData.setData('text/plain', selected.map((entry) => `${lineOf(entry)}\n`).join(''));
  event.preventDefault();
});

let telling;
function tell(text, seconds = 4) {
  $('#notice').textContent = text;
  clearTimeout(telling);
  telling = setTimeout(() => { $('#notice').textContent = ''; }, 1000 * seconds);
}

// ---- The forms and keys

$('#filters').onsubmit = (event) => {
  event.preventDefault();
  const name = $('#site').value;
  if (!name) return;
  $('#site').value = '';
  if (!settings.sites.includes(name)) change({ sites: [...settings.sites, name] }, true);
};
$('#least').onchange = ({ target }) => change({ level: target.value });
$('#utc').onchange = ({ target }) => change({ utc: target.checked });

let typing;
$('#search').oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    const search = $('#search').value.trim();
    if (search !== settings.search) change({ search });
  }, 150);
};
// Enter in the search would add a site.
$('#search').onkeydown = (event) => {
  if (event.key === 'Enter') {
    event.preventDefault();
    log.focus();
  }
};

$('#open-filters').onclick = ({ currentTarget: button }) => {
  const isOpen = button.getAttribute('aria-expanded') !== 'true';
  button.setAttribute('aria-expanded', isOpen);
  $('#filters').classList.toggle('open', isOpen);
};

// Only where no other element has the keyboard.
addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey && event.key !== '/' || event.defaultPrevented) return;
  if (event.target !== log && event.target !== document.body) return;
  const action = {
    '/': () => { $('#search').focus(); $('#search').select(); },
    p: () => pause(!isPaused),
    c: copy,
    // The browser's own glide, and miss where the heights of rows are guesses.
    Home: toOldest,
    End: toNewest,
  }[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

$('#send').onsubmit = async (event) => {
  event.preventDefault();
  const text = $('#text'), button = $('#send button'), failure = $('#send-failure');
  if (button.disabled) return;
  button.disabled = text.readOnly = true;
  failure.textContent = '';
  try {
    // No timestamp: the server's clock is better. The message is shown when it
    // comes back, like everyone's.
    await request(new URL('newlog', http), {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ site: $('#to').value, log_message: text.value, log_level: $('#level').value }),
      signal: AbortSignal.timeout(10_000),
    });
    text.value = '';
    log.scrollTop = 0;
  } catch (error) {
    failure.textContent = `Not sent: ${error.message}`;
  }
  button.disabled = text.readOnly = false;
  text.focus();
};

// Enter sends, Shift+Enter starts a line. Phones have no Shift+Enter.
$('#text').onkeydown = (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing || matchMedia('(pointer: coarse)').matches) return;
  event.preventDefault();
  $('#send').requestSubmit();
};

addEventListener('popstate', () => apply(settingsOf(location.search)));

drawSettings();
drawPast();
start();
tell(ignored(location.search), 20);
