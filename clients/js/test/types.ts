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
const Bound: typeof Socket = Socket.at('http://localhost');
new Bound('ws://localhost?site=tst').send(String(isSent));
