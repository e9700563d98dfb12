// Receives the messages of observatories in a web page or in Node: one
// connection for all parts of a page, no gap, each message once, in order.
//
// README.md beside this file has examples, logstream.d.ts every option.

const LEVELS = ['debug', 'info', 'warning', 'error', 'critical'];

const DEFAULTS = { // seconds
  backoff: [1, 30],
  stable: 10, // a connection this old has proved that the server is well
  ping: 240, // the server closes what was idle for 10 min
  renew: 6600, // the server closes every connection after 2 h
  timeout: 10,
  hold: 3,
};
// Browsers let the timers of a hidden tab run only once a minute. A longer gap
// means that the tab or the machine slept.
const SLEPT = 90;
const MAX_QUEUE = 1000;
const MAX_SITES = 10; // of a connection: the server's limit

const shared = new Map();

// Watches sites over the page's connection to these addresses.
export function watch(options, handlers) {
  const { http, ws } = options;
  const key = JSON.stringify([http, ws]);
  if (!shared.has(key)) shared.set(key, new Logstream(http, ws, options));
  return shared.get(key).watch(options, handlers);
}

// One connection, and all that watch something over it.
export class Logstream {
  #http;
  #ws;
  #options;
  #watches = new Set();
  #current; // the open connection
  #next; // the one that is to replace it, not open yet
  #old; // the one before, kept until all have caught up over the current one
  #failures = 0;
  #failure; // why there is no connection
  #retry; // a timer
  #ticks; // a timer
  #ticked; // when it last fired
  #isUpdating = false;
  #queue = [];

  constructor(http, ws, options = {}) {
    this.#options = { ...DEFAULTS, ...defined(options) };
    this.#options.WebSocket ??= globalThis.WebSocket;
    if (!this.#options.WebSocket) throw new TypeError('There is no WebSocket here: give one as the option `WebSocket`.');
    this.#http = new URL(String(http).replace(/\/*$/, '/'), globalThis.location?.href);
    this.#ws = new URL(ws ?? String(http).replace(/\/*$/, ''), this.#http);
    this.#ws.protocol = this.#ws.protocol.replace('http', 'ws');
  }

  watch(options, handlers = {}) {
    const watch = new Watch({ hold: this.#options.hold, ...defined(options) }, handlers, {
      check: (watch, sites) => this.#check(watch, sites),
      changed: () => this.#changed(),
      caughtUp: () => this.#closeOld(),
      remove: (watch) => { this.#watches.delete(watch); this.#changed(); },
      send: (data) => this.send(data),
      isOpen: () => this.#current !== undefined,
      failure: () => this.#failure,
      covers: (watch) => this.#current !== undefined && covers(this.#current.filter, watch),
      wait: (failures) => backoff(this.#options.backoff, failures),
      request: (...request) => this.#request(...request),
    });
    this.#watches.add(watch);
    this.#changed();
    return watch;
  }

  // Sends a text or an object as soon as the connection is open. False if too
  // many wait already.
  send(data) {
    const text = typeof data === 'string' ? data : JSON.stringify(data);
    // These would change what all others get over this connection.
    if (text?.includes('subscrib') && ['subscribe', 'updatesubscribersite'].includes(parse(text)?.action)) {
      throw new TypeError('What this connection gets is not changed with `send`: use `show` of a watch, or a new socket.');
    }
    if (this.#current) this.#current.socket.send(text);
    else if (this.#queue.length >= MAX_QUEUE) return false;
    else this.#queue.push(text);
    return true;
  }

  // ---- What is asked for

  // The server refuses too many as a whole, so nobody would get anything.
  #check(watch, sites) {
    const others = [...this.#watches].filter((other) => other !== watch);
    const count = union([...others, { sites }]).sites.length;
    if (count > MAX_SITES) throw new RangeError(`A connection watches ${MAX_SITES} sites at most, and with ${sites.join(', ')} it would be ${count}.`);
  }

  // Once for all changes that a page makes at the same time.
  #changed() {
    if (this.#isUpdating) return;
    this.#isUpdating = true;
    queueMicrotask(() => { this.#isUpdating = false; this.#update(); });
  }

  #update() {
    if (this.#watches.size === 0) return this.#shut();
    if (!this.#ticks) this.#start();
    const filter = union(this.#watches);
    const connection = this.#current;
    if (!connection) {
      if (!this.#next && !this.#retry) this.#open();
      return;
    }
    // One after the other: the server may answer two in any order.
    if (!covers(connection.filter, filter) && !connection.asked.some(({ action }) => action === 'subscribe')) {
      this.#ask(connection, 'subscribe', filter);
    }
    for (const watch of this.#watches) {
      if (covers(connection.filter, watch)) watch.catchUp(connection.epoch);
    }
  }

  #ask(connection, action, filter) {
    connection.asked.push({ action, filter, at: Date.now() });
    const fields = filter && { site: filter.sites, ...(filter.level && { level: filter.level }) };
    connection.socket.send(JSON.stringify({ action, ...fields }));
  }

  // ---- The connection

  #open() {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    drop(this.#next);
    const filter = union(this.#watches);
    const url = new URL(this.#ws);
    for (const site of filter.sites) url.searchParams.append('site', site);
    if (filter.level) url.searchParams.set('level', filter.level);
    const socket = new this.#options.WebSocket(url.href);
    const connection = {
      socket,
      filter,
      epoch: {}, // another one after each change of what is sent over it
      asked: [], // not answered yet
      heard: Date.now(),
      // A network that swallows packets would keep it connecting for minutes.
      timer: setTimeout(() => this.#lost(connection), this.#options.timeout * 1000),
      // At random, so that the pages opened together do not renew together.
      renew: this.#options.renew * (0.9 + 0.1 * Math.random()),
    };
    this.#next = connection;
    socket.onopen = () => {
      clearTimeout(connection.timer);
      drop(this.#old);
      this.#old = this.#current;
      this.#current = connection;
      this.#next = this.#failure = undefined;
      connection.opened = connection.heard = Date.now();
      for (const text of this.#queue.splice(0)) socket.send(text);
      this.#update();
    };
    socket.onmessage = ({ data }) => this.#receive(connection, data);
    socket.onclose = socket.onerror = () => this.#lost(connection);
  }

  #lost(connection) {
    drop(connection);
    if (connection === this.#old) {
      this.#old = undefined;
      return;
    }
    if (connection === this.#next) {
      this.#next = undefined;
      if (!this.#current) {
        this.#failure = `No connection to ${this.#ws.host}.`;
        for (const watch of this.#watches) watch.plan();
      }
    } else if (connection === this.#current) {
      this.#current = undefined;
      drop(this.#old);
      this.#old = undefined;
      if (seconds() - connection.opened / 1000 >= this.#options.stable) this.#failures = 0;
      for (const watch of this.#watches) watch.disconnected();
    } else {
      return;
    }
    if (!this.#next && !this.#retry) {
      this.#retry = setTimeout(() => this.#open(), backoff(this.#options.backoff, this.#failures++));
    }
  }

  #closeOld() {
    for (const watch of this.#watches) if (!watch.isCaughtUp) return;
    drop(this.#old);
    this.#old = undefined;
  }

  #receive(connection, data) {
    connection.heard = Date.now();
    let frame = parse(data);
    if (typeof frame !== 'object' || frame === null) frame = { message: String(data), log_level: 'info' };
    if (frame.id === undefined && typeof frame.action === 'string') {
      this.#answered(connection, frame.action === 'pong' ? 'ping' : 'subscribe');
    } else if (frame.message !== undefined) {
      for (const watch of this.#watches) watch.take(frame, true);
    }
  }

  #answered(connection, action) {
    const at = connection.asked.findIndex((asked) => asked.action === action);
    const [asked] = at < 0 ? [] : connection.asked.splice(at, 1);
    if (asked?.action !== 'subscribe' || connection !== this.#current) return;
    connection.filter = asked.filter;
    // All catch up: nothing says that no frame was missed in the change.
    connection.epoch = {};
    this.#update();
  }

  // ---- Time, sleep and the network

  #start() {
    const { ping, renew, timeout } = this.#options;
    this.#ticked = Date.now();
    this.#ticks = setInterval(() => this.#tick(), 1000 * Math.min(5, ping / 4, renew / 4, timeout / 2));
    globalThis.addEventListener?.('online', this.#wake);
    globalThis.addEventListener?.('offline', this.#doubt);
    globalThis.addEventListener?.('pageshow', this.#look);
    globalThis.document?.addEventListener('visibilitychange', this.#look);
    globalThis.document?.addEventListener('resume', this.#look);
  }

  #shut() {
    clearInterval(this.#ticks);
    clearTimeout(this.#retry);
    for (const connection of [this.#old, this.#current, this.#next]) drop(connection);
    this.#ticks = this.#retry = this.#old = this.#current = this.#next = undefined;
    this.#failures = 0;
    this.#failure = undefined;
    this.#queue = [];
    globalThis.removeEventListener?.('online', this.#wake);
    globalThis.removeEventListener?.('offline', this.#doubt);
    globalThis.removeEventListener?.('pageshow', this.#look);
    globalThis.document?.removeEventListener('visibilitychange', this.#look);
    globalThis.document?.removeEventListener('resume', this.#look);
  }

  // By the clock, and not by timers of hours: those stand still in a sleep.
  #tick() {
    const now = Date.now();
    if (this.#hasSlept()) return this.#wake();
    this.#ticked = now;
    for (const watch of this.#watches) watch.forget();
    const connection = this.#current;
    if (!connection) return;
    const { ping, timeout } = this.#options;
    const age = (now - connection.opened) / 1000;
    if (connection.asked.length > 0 && now - connection.asked[0].at > timeout * 1000) this.#lost(connection);
    else if (now - connection.heard > ping * 1000) this.#doubt();
    if (age > connection.renew && !this.#next && !this.#retry) this.#open();
  }

  #hasSlept() {
    return Math.abs(Date.now() - this.#ticked) > SLEPT * 1000;
  }

  // The page is seen again.
  #look = () => {
    if (globalThis.document?.visibilityState === 'hidden') return;
    if (this.#hasSlept() || !this.#current && !this.#next) this.#wake();
  };

  // Connects at once. An open connection is replaced: it may belong to a
  // network that is gone.
  #wake = () => {
    this.#ticked = Date.now();
    this.#failures = 0;
    this.#doubt();
    this.#open();
  };

  // Asks the server for a sign of life. An older one answers with an error,
  // which is one too.
  #doubt = () => {
    const connection = this.#current;
    if (connection && connection.asked.length === 0) this.#ask(connection, 'ping');
    for (const watch of this.#watches) watch.plan();
  };

  // ---- The history

  // One page of the history, and the address of the next one. The first attempt
  // is short: it may go over an old connection of the browser that is gone.
  async #request(query, link, signal, failures) {
    const url = link ?? new URL(`recent-logs?${query}`, this.#http);
    const attempt = new AbortController();
    const abort = () => attempt.abort();
    signal.addEventListener('abort', abort);
    const timer = setTimeout(abort, this.#options.timeout * Math.min(6, 1 + failures) * 1000);
    try {
      const fetch = this.#options.fetch ?? globalThis.fetch;
      const answer = await fetch(url, { cache: 'no-store', signal: attempt.signal });
      if (!answer.ok) {
        const body = await answer.json().catch(() => null);
        throw Object.assign(new Error(body?.message ?? `status ${answer.status}`), { status: answer.status });
      }
      const next = /<([^>]*)>\s*;\s*rel="?next"?/.exec(answer.headers.get('Link'));
      return { messages: await answer.json(), next: next && new URL(next[1], url) };
    } catch (error) {
      throw attempt.signal.aborted ? new Error('no answer in time') : error;
    } finally {
      clearTimeout(timer);
      signal.removeEventListener('abort', abort);
    }
  }
}

// What one part of a page shows.
class Watch {
  messages = [];
  #stream;
  #handlers;
  #seconds;
  #max;
  #hold;
  #from;
  #entries = []; // sorted; what `messages` shows
  #fresh = []; // not handed over yet
  #seen = new Set(); // the keys of both
  #known = new Set(); // the keys of what the page has fetched itself
  #highest = '';
  #run; // aborts the running catch-up
  #epoch; // what the last catch-up was for
  #isComplete = false;
  #wasComplete = false; // ever, for these sites
  #failure;
  #isCleared = false;
  #isStopped = false;
  #heldUntil = 0;
  #cancel; // the planned draw
  #release; // a timer: the end of the hold
  #told; // the state, as last told

  constructor({ sites, level, seconds = 86400, max = 10000, hold, from }, handlers, stream) {
    Object.assign(this, filterOf(sites, level));
    stream.check(this, this.sites);
    this.#seconds = seconds;
    this.#max = max;
    this.#hold = hold;
    this.#from = from;
    this.#handlers = handlers;
    this.#stream = stream;
    this.plan();
  }

  get state() {
    let state = 'live';
    const isOpen = this.#stream.isOpen();
    const error = isOpen ? this.#failure : this.#stream.failure();
    if (!isOpen) state = globalThis.navigator?.onLine === false ? 'offline' : 'connecting';
    else if (!this.#stream.covers(this)) state = 'catching up';
    else if (!this.#isComplete && this.#failure === undefined) state = 'catching up';
    return { state, complete: this.#isComplete && state === 'live', ...(error !== undefined && { error }) };
  }

  // Shows other sites, or another level, over the same connection.
  show(sites, level = this.level) {
    const filter = filterOf(sites, level);
    if (JSON.stringify(filter) === JSON.stringify({ sites: this.sites, level: this.level })) return;
    this.#stream.check(this, filter.sites);
    Object.assign(this, filter);
    this.disconnected();
    this.#entries = [];
    this.#fresh = [];
    this.#seen.clear();
    this.#highest = '';
    this.#wasComplete = false;
    this.#isCleared = true;
    this.#stream.changed();
  }

  send(data) {
    return this.#stream.send(data);
  }

  stop() {
    this.#isStopped = true;
    this.#run?.abort();
    this.#cancel?.();
    clearTimeout(this.#release);
    this.#stream.remove(this);
  }

  // ---- From here on for Logstream only

  get isCaughtUp() {
    return this.#isComplete && !this.#run;
  }

  disconnected() {
    this.#run?.abort();
    this.#run = this.#epoch = this.#failure = undefined;
    this.#isComplete = false;
    this.plan();
  }

  // A message or another frame. Whether it belongs here, new or not.
  take(frame, isLive) {
    const site = typeof frame.site === 'string' ? frame.site : '';
    const hasId = typeof frame.id === 'string';
    if (hasId || site) {
      if (!this.sites.includes(site)) return false;
      if (hasId && rank(frame.log_level ?? 'info') < rank(this.level)) return false;
    }
    const now = seconds();
    // What has no id, such as an error, stays where it appeared: at the end.
    const id = hasId ? frame.id : [now.toFixed(6), this.#highest].sort(compareIds)[1];
    const entry = { id, site: hasId ? site : '\uffff' };
    entry.key = hasId ? `${id} ${site}` : entry;
    if (hasId && this.#seen.has(entry.key) || !isLive && this.#known.has(entry.key)) return true;
    if (!isLive && !this.#wasComplete && Number(id) < this.#from) {
      this.#known.add(entry.key);
      return true;
    }
    entry.at = isLive ? Math.max(Number(id), now) : Number(id);
    const { site: _, id: __, ...rest } = frame;
    entry.message = Object.freeze({
      site,
      ...(hasId && { id }),
      ...rest,
      // The id is the exact time; a frame has whole seconds only.
      timestamp: hasId ? Number(id) : Number(frame.timestamp ?? now),
    });
    this.#seen.add(entry.key);
    if (compareIds(id, this.#highest) > 0) this.#highest = id;
    this.#fresh.push(entry);
    this.plan();
    return true;
  }

  // Fetches the whole time that is shown, because a message may arrive with an
  // older timestamp. Tries until it succeeds: nobody would notice the gap.
  async catchUp(epoch) {
    if (this.#epoch === epoch) return;
    this.#epoch = epoch;
    this.#run?.abort();
    const run = new AbortController();
    this.#run = run;
    // What was held before must not wait for longer.
    if (!this.#isComplete && this.#fresh.length === 0) this.#heldUntil = Date.now() + this.#hold * 1000;
    this.plan();
    for (let failures = 0; !run.signal.aborted; failures++) {
      try {
        await this.#load(run.signal, failures);
        if (run.signal.aborted) return;
        this.#isComplete = this.#wasComplete = true;
        this.#run = this.#failure = undefined;
        this.plan();
        this.#stream.caughtUp();
        return;
      } catch (error) {
        if (run.signal.aborted) return;
        this.#isComplete = false;
        this.#failure = error.message;
        this.plan();
      }
      await sleep(this.#stream.wait(failures), run.signal);
    }
  }

  async #load(signal, failures) {
    try {
      await this.#loadSites(this.sites, signal, failures);
    } catch (error) {
      if (error.status !== 400 || this.sites.length === 1) throw error;
      // An older server takes one site in a request.
      for (const site of this.sites) await this.#loadSites([site], signal, failures);
    }
  }

  async #loadSites(sites, signal, failures) {
    const query = new URLSearchParams(sites.map((site) => ['site', site]));
    query.set('after_time', Math.floor(seconds() - this.#seconds));
    query.set('limit', Math.min(this.#max, 5000));
    if (this.level) query.set('level', this.level);
    // Newest first: what is older than `max` others would be dropped again.
    for (let link, count = 0; count < this.#max;) {
      const { messages, next } = await this.#stream.request(query, link, signal, failures);
      // An answer that comes after a change of the site is dropped.
      if (signal.aborted) return;
      for (const message of messages) {
        if (this.take({ site: sites[0], ...message }, false)) count += 1;
      }
      if (!next) return;
      link = next;
    }
  }

  // ---- Handing over

  // Hands over with the next frame of the screen, all at once.
  plan() {
    if (this.#isStopped || this.#cancel) return;
    this.#cancel = nextFrame(() => { this.#cancel = undefined; this.#draw(); });
  }

  #draw() {
    // During a catch-up live messages wait a little for the older ones.
    const wait = this.#isComplete ? 0 : this.#heldUntil - Date.now();
    const isHeld = wait > 0 && this.#fresh.length > 0;
    clearTimeout(this.#release);
    if (isHeld) this.#release = setTimeout(() => this.plan(), wait);
    const added = isHeld ? undefined : this.#merge();
    const isNewList = added !== undefined || this.#isCleared;
    this.#isCleared = false;
    if (isNewList) this.messages = this.#entries.map(({ message }) => message);
    const state = this.state;
    const isNewState = JSON.stringify(state) !== this.#told;
    this.#told = JSON.stringify(state);
    try {
      if (isNewList) this.#handlers.messages?.(this.messages, added ?? []);
    } finally {
      if (isNewState && !this.#isStopped) this.#handlers.state?.(state);
    }
  }

  // Merges what is fresh into the entries. Returns it, or undefined if nothing
  // has changed.
  #merge() {
    const count = this.#entries.length;
    const fresh = this.#fresh.sort(compare);
    this.#fresh = [];
    if (fresh.length > 0) this.#entries = this.#entries.concat(fresh).sort(compare);
    const since = seconds() - this.#seconds;
    const tooMany = this.#entries.length - this.#max;
    const dropped = new Set();
    this.#entries = this.#entries.filter((entry, place) => {
      const isKept = place >= tooMany && entry.at >= since;
      if (!isKept) {
        dropped.add(entry);
        this.#seen.delete(entry.key);
      }
      return isKept;
    });
    if (fresh.length === 0 && this.#entries.length === count) return undefined;
    return fresh.filter((entry) => !dropped.has(entry)).map(({ message }) => message);
  }

  // Older ones than the time that is shown are dropped, also when nothing comes.
  forget() {
    const since = seconds() - this.#seconds;
    if (this.#entries.length > 0 && this.#entries.some(({ at }) => at < since)) this.plan();
  }
}

// In the place of npm's `reconnecting-websocket`: the same constructor and
// events, but no message is missing after a reconnect, and none comes twice.
export class ReconnectingWebSocket extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSING = 2;
  static CLOSED = 3;
  CONNECTING = 0;
  OPEN = 1;
  CLOSING = 2;
  CLOSED = 3;
  onopen = null;
  onmessage = null;
  onclose = null;
  onerror = null;
  #watch;
  #isOpen = false;
  #isClosed = false;

  // The class for a deployment whose HTTP API has an address of its own.
  static at(http) {
    return class extends ReconnectingWebSocket {
      constructor(url, protocols, options) {
        super(url, protocols, { http, ...options });
      }
    };
  }

  constructor(url, _protocols, { http, history, ...options } = {}) {
    super();
    // As listeners, so that one that throws does not stop the next message.
    for (const type of ['open', 'message', 'close']) this.addEventListener(type, (event) => this[`on${type}`]?.(event));
    if (typeof url !== 'string' && !(url instanceof URL)) throw new TypeError(`The address is a ${typeof url}; expected a string or a URL.`);
    const address = new URL(url, globalThis.location?.href);
    if (address.searchParams.has('topic')) {
      throw new TypeError("`topic` in the address is not supported here: a page of the data stream keeps npm's `reconnecting-websocket`.");
    }
    const sites = address.searchParams.getAll('site');
    const level = address.searchParams.get('level')?.toLowerCase();
    address.search = '';
    this.url = String(url);
    const ws = address.href.replace(/\/$/, '').replace(/^http/, 'ws');
    http ??= ws.replace(/^ws/, 'http');
    this.#watch = watch(
      // Without `history`, what was sent before is left to the page's own request.
      { ...options, http, ws, sites, level, seconds: history || undefined, from: history ? undefined : seconds() },
      {
        messages: (_, added) => {
          for (const message of added) {
            const data = JSON.stringify({ ...message, timestamp: String(Math.floor(message.timestamp)) });
            this.#tell(new MessageEvent('message', { data }));
          }
        },
        state: ({ state }) => {
          const isOpen = state === 'live' || state === 'catching up';
          if (isOpen === this.#isOpen) return;
          this.#isOpen = isOpen;
          this.#tell(new Event(isOpen ? 'open' : 'close'));
        },
      },
    );
  }

  get readyState() {
    if (this.#isClosed) return ReconnectingWebSocket.CLOSED;
    return this.#isOpen ? ReconnectingWebSocket.OPEN : ReconnectingWebSocket.CONNECTING;
  }

  send(data) {
    this.#watch.send(data);
  }

  close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#watch.stop();
    queueMicrotask(() => this.#tell(new Event('close')));
  }

  #tell(event) {
    if (!this.#isClosed || event.type === 'close') this.dispatchEvent(event);
  }
}

export default ReconnectingWebSocket;

// ---- Small things

const seconds = () => Date.now() / 1000;

// Undefined for what is no JSON.
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const defined = (options) => Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));

// Milliseconds, at random: after an outage not all come back together.
function backoff([least, most], failures) {
  const limit = Math.min(most, least * 2 ** (failures + 1));
  return 1000 * (least + Math.random() * (limit - least));
}

// An unknown level is shown as info.
const rank = (level) => {
  const place = LEVELS.indexOf(String(level ?? 'debug').toLowerCase());
  return place < 0 ? 1 : place;
};

function filterOf(sites, level) {
  const all = [...new Set([sites].flat())];
  if (all.length === 0 || !all.every((site) => typeof site === 'string' && site)) {
    throw new TypeError('`sites` is not a list of the names of sites.');
  }
  if (level !== undefined && !LEVELS.includes(level)) throw new TypeError(`\`level\` is none of ${LEVELS.join(', ')}.`);
  return { sites: all, level };
}

// What all watches need together.
function union(watches) {
  const all = [...watches];
  const sites = [...new Set(all.flatMap((watch) => watch.sites))];
  const least = Math.min(...all.map((watch) => rank(watch.level)));
  return { sites, level: least > 0 ? LEVELS[least] : undefined };
}

const covers = (filter, other) =>
  rank(filter.level) <= rank(other.level) && other.sites.every((site) => filter.sites.includes(site));

// Ids have six decimals and no leading zero, and some are too long for a
// number. The shorter one is smaller; those of equal length sort as text.
const compareIds = (a, b) => a.length - b.length || (a < b ? -1 : a > b ? 1 : 0);
const compare = (a, b) => compareIds(a.id, b.id) || (a.site < b.site ? -1 : a.site > b.site ? 1 : 0);

// Ends early when it is aborted.
function sleep(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(end, milliseconds);
    signal.addEventListener('abort', end);
    function end() {
      clearTimeout(timer);
      signal.removeEventListener('abort', end);
      resolve();
    }
  });
}

// The npm package `ws` throws errors that nobody listens to.
function drop(connection) {
  if (!connection) return;
  const { socket, timer } = connection;
  clearTimeout(timer);
  socket.onopen = socket.onmessage = socket.onclose = null;
  socket.onerror = () => {};
  socket.close();
}

// Calls with the next frame of the screen. A hidden page has no frames.
function nextFrame(call) {
  const isVisible = globalThis.document?.visibilityState === 'visible';
  const frame = isVisible ? requestAnimationFrame(run) : undefined;
  const timer = setTimeout(run, isVisible ? 250 : 16);
  function cancel() {
    clearTimeout(timer);
    if (frame !== undefined) cancelAnimationFrame(frame);
  }
  function run() {
    cancel();
    call();
  }
  return cancel;
}
