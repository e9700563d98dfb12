// What pages write that is not there in Node.

import { ReconnectingWebSocket } from '../logstream.js';

const socket = new ReconnectingWebSocket('ws://localhost?site=tst');
const show = (event: MessageEvent) => JSON.parse(event.data);
socket.onmessage = show;
socket.onmessage = (event: MessageEvent<string>) => event.data.trim();
socket.onclose = (event: CloseEvent) => event.type;
socket.addEventListener('message', show);
socket.removeEventListener('message', show);
