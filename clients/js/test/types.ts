// Compiled, never run: the types allow what the examples do, and refuse what
// is wrong.

import Socket, { Logstream, ReconnectingWebSocket, watch, type Message, type State } from '../logstream.js';

let shown: Message[] = [];
const watching = watch({ http: '/logs', ws: 'wss://localhost', sites: ['tst'], level: 'warning', seconds: 3600 }, {
  messages(list, added) {
    shown = list;
    const first: number | undefined = added[0]?.timestamp;
    const id: string | undefined = added[0]?.id;
    return [first, id];
  },
  state(state: State) {
    if (state.state === 'catching up' && !state.complete) console.log(state.error ?? '');
    // @ts-expect-error: there is no such state
    if (state.state === 'closed') return;
  },
});
watching.show('abc');
watching.show(['abc', 'tst'], 'debug');
// @ts-expect-error: not a list of names
watching.show([1]);
const isSent: boolean = watching.send({ action: 'newlog', site: 'tst', log_message: String(shown.length) });
watching.stop();

// @ts-expect-error: `http` is missing
watch({ sites: 'tst' }, {});
// @ts-expect-error: no such level
watch({ http: '/', sites: 'tst', level: 'warn' });
// @ts-expect-error: a message cannot be changed
shown.forEach((message) => { message.message = ''; });

new Logstream('http://localhost', undefined, { backoff: [1, 2], WebSocket }).watch({ sites: 'tst' });

const socket = new ReconnectingWebSocket('ws://localhost?site=tst', [], { http: 'http://localhost', history: 60 });
socket.onmessage = ({ data }) => JSON.parse(data);
socket.addEventListener('message', ({ data }) => data.trim());
socket.addEventListener('message', ({ data }) => data.trim(), { once: true });
for (const type of ['open', 'close', 'error'] as const) socket.addEventListener(type, (event) => event.type);
socket.addEventListener('other', (event) => event.type);
// @ts-expect-error: no message has it
socket.addEventListener('message', ({ reason }) => reason);
// @ts-expect-error: only a message has it
socket.addEventListener('open', ({ data }) => data);
const isClosed: boolean = socket.readyState === socket.CLOSED || socket.CONNECTING > socket.OPEN || socket.CLOSING === 2;
socket.close();
socket.close(1000, String(isClosed));
// What npm's package has besides.
new ReconnectingWebSocket(new URL('ws://localhost?site=tst'), [], { maxReconnectionDelay: 1000, debug: true });
// @ts-expect-error: no function
new ReconnectingWebSocket(() => 'ws://localhost?site=tst');
// @ts-expect-error: a known option of another type
new ReconnectingWebSocket('ws://localhost?site=tst', [], { history: 'all' });
const Bound: typeof Socket = Socket.at('http://localhost');
new Bound('ws://localhost?site=tst').send(String(isSent));
