export type Level = 'debug' | 'info' | 'warning' | 'error' | 'critical';

/** One message. It is frozen, so that a framework does not look into it. */
export interface Message {
  readonly site: string;
  /** Unique within a site. What has none is an answer of the server to this page, such as an error. */
  readonly id?: string;
  readonly message: string;
  readonly log_level: Level;
  /** Unix seconds with their fraction. */
  readonly timestamp: number;
}

export interface State {
  /** `offline` where the browser says so; elsewhere it is `connecting`. */
  readonly state: 'connecting' | 'catching up' | 'live' | 'offline';
  /** Whether the list has no gap: false from the loss of the connection until the history has been fetched again. */
  readonly complete: boolean;
  /** Why there is no connection, after an attempt, or why the history could not be fetched. It is tried again. */
  readonly error?: string;
}

export interface Handlers {
  /**
   * At most once for each frame of the screen.
   * @param list all messages of the time that is shown, the oldest first
   * @param added those that are new in it, the oldest first
   */
  messages?(list: Message[], added: Message[]): void;
  state?(state: State): void;
}

export interface WatchOptions {
  sites: string | readonly string[];
  /** The least level. All, if it is not given. */
  level?: Level | undefined;
  /** How far back messages are shown. One day, if it is not given. */
  seconds?: number | undefined;
  /** How many messages are kept at most: the newest. 10,000, if it is not given. */
  max?: number | undefined;
  /** For how many seconds live messages wait for older ones during a catch-up: 3. */
  hold?: number | undefined;
}

/** In seconds. There is no need to give any of these. */
export interface ConnectionOptions {
  /** The class of sockets, where there is no global one: Node before version 22. */
  WebSocket?: (new (url: string) => any) | undefined;
  fetch?: typeof globalThis.fetch | undefined;
  /** The least and the longest wait before a reconnect: [1, 30]. */
  backoff?: readonly [number, number] | undefined;
  /** The age at which a connection counts as good, so that the waits are short again: 10. */
  stable?: number | undefined;
  /** The silence after which the server is asked for a sign of life: 240. */
  ping?: number | undefined;
  /** The age at which a connection is replaced: 6600. */
  renew?: number | undefined;
  /** How long the server may take to open a connection or to answer: 10. For the history it grows with each attempt. */
  timeout?: number | undefined;
  hold?: number | undefined;
}

export interface Watch {
  readonly sites: string[];
  readonly level: Level | undefined;
  /** The list that was handed over last. */
  readonly messages: Message[];
  readonly state: State;
  /**
   * Shows other sites, or another level, over the same connection. Without a
   * level it stays; `debug` is all.
   * @throws {RangeError} if all that watch over this connection would watch more than 10 sites.
   */
  show(sites: string | readonly string[], level?: Level): void;
  /**
   * Sends a text, or an object as JSON, once the connection is open. False if too many wait already.
   * @throws {TypeError} for the actions `subscribe` and `updatesubscribersite`: that is what `show` is for.
   */
  send(data: string | object): boolean;
  stop(): void;
}

/**
 * Watches sites. All calls with the same addresses share one connection, which
 * has the `ConnectionOptions` of the first one.
 * @param options `http` is the address before `/recent-logs`, `ws` that of the
 *   WebSocket; without `ws` it is the same as `http`.
 * @throws {RangeError} if all that watch over this connection would watch more than 10 sites.
 */
export function watch(
  options: WatchOptions & ConnectionOptions & { http: string | URL; ws?: string | URL | undefined },
  handlers?: Handlers,
): Watch;

/** A connection of its own, for all that watch over it. */
export class Logstream {
  constructor(http: string | URL, ws?: string | URL, options?: ConnectionOptions);
  watch(options: WatchOptions, handlers?: Handlers): Watch;
  send(data: string | object): boolean;
}

export interface SocketOptions extends ConnectionOptions {
  /** The address of the HTTP API. Without it, that of the WebSocket. */
  http?: string | URL | undefined;
  /** Hands over the messages of so many seconds at the beginning too, so that the page need not ask for them. */
  history?: number | undefined;
  /** Those of npm's package that are not here do nothing. */
  [option: string]: unknown;
}

// What is called with an event may ask for one of the DOM, such as
// `MessageEvent`, where there is one.
type Listener<E> = { call(event: E): void }['call'];

export interface SocketEvents {
  open: Event;
  message: Event & { readonly data: string };
  close: Event;
  error: Event;
}

/**
 * In the place of npm's `reconnecting-websocket`. It never has an event
 * `error`, and its `close` has no code and no reason.
 */
export class ReconnectingWebSocket extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;
  readonly CONNECTING: 0;
  readonly OPEN: 1;
  readonly CLOSING: 2;
  readonly CLOSED: 3;
  /** The class for a deployment whose HTTP API has an address of its own. */
  static at(http: string | URL): typeof ReconnectingWebSocket;
  /** @throws {TypeError} for an address with `topic`, or without a `site`. */
  constructor(url: string | URL, protocols?: string | string[], options?: SocketOptions);
  readonly url: string;
  readonly readyState: number;
  onopen: Listener<SocketEvents['open']> | null;
  onmessage: Listener<SocketEvents['message']> | null;
  onclose: Listener<SocketEvents['close']> | null;
  onerror: Listener<SocketEvents['error']> | null;
  addEventListener<Type extends keyof SocketEvents>(
    type: Type, listener: Listener<SocketEvents[Type]>, options?: Parameters<EventTarget['addEventListener']>[2],
  ): void;
  addEventListener(...listener: Parameters<EventTarget['addEventListener']>): void;
  removeEventListener<Type extends keyof SocketEvents>(
    type: Type, listener: Listener<SocketEvents[Type]>, options?: Parameters<EventTarget['removeEventListener']>[2],
  ): void;
  removeEventListener(...listener: Parameters<EventTarget['removeEventListener']>): void;
  /** @throws {TypeError} for the actions `subscribe` and `updatesubscribersite`. */
  send(data: string): void;
  /** Neither the code nor the reason reaches the server. */
  close(code?: number, reason?: string): void;
}

export default ReconnectingWebSocket;
