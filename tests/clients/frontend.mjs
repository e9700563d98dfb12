// The calls of the web frontend that has a socket for the messages alone, as it
// makes them. datastreamer.mjs has those of today's.

import axios from 'axios';
import ReconnectingWebSocket from 'reconnecting-websocket';
import WebSocket from 'ws';

import { describedFrame, parseReceived } from './described.mjs';
import * as deployment from './support.mjs';

export class Frontend {
  frames = [];

  // Resolves when the socket is open; the end of the test closes it.
  static async connect(test, site, { httpUrl, wsUrl } = deployment) {
    const frontend = new Frontend();
    frontend.site = site;
    frontend.httpUrl = httpUrl;
    // Node has no WebSocket in the versions that Debian ships.
    frontend.socket = new ReconnectingWebSocket(wsUrl + '?site=' + site, [], { WebSocket });
    test.after(() => frontend.socket.close());
    frontend.socket.addEventListener('message', (event) => {
      frontend.frames.push(parseReceived(event.data));
    });
    await frontend.untilOpen();
    return frontend;
  }

  untilOpen() {
    return deployment.until(() => this.socket.readyState === WebSocket.OPEN, () => 'the socket is not open');
  }

  untilShown(count) {
    return deployment.until(() => this.frames.length >= count, () => `${count} frames expected, got ${JSON.stringify(this.frames)}`);
  }

  send(message) {
    this.socket.send(JSON.stringify(message));
  }

  post(message) {
    return axios.post(this.httpUrl + '/newlog', message);
  }

  async history() {
    const afterTime = deployment.now() - 86400;
    const response = await axios.get(this.httpUrl + '/recent-logs?after_time=' + afterTime + '&site=' + this.site);
    return response.data;
  }

  // What the frontend shows. The sort compares numbers with strings.
  async load() {
    return this.frames.concat(await this.history()).sort((a, b) => a.timestamp - b.timestamp);
  }
}
