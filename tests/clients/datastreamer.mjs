// The calls of today's web frontend, as it makes them: a data stream that has
// several topics, of which the messages are 'userstatus'.

import axios from 'axios';
import ReconnectingWebSocket from 'reconnecting-websocket';
import WebSocket from 'ws';

import { describedFrame, parseReceived } from './described.mjs';
import * as deployment from './support.mjs';

// One connection. The end of the test closes it.
class Stream {
  frames = []; // all that came, as it came

  constructor(test, base, site, handlers) {
    // Node has no WebSocket in the versions that Debian ships.
    this.socket = new ReconnectingWebSocket(base + '?site=' + encodeURIComponent(site), [], { WebSocket });
    test.after(() => this.socket.close());
    this.socket.addEventListener('message', (event) => {
      const payload = parseReceived(event.data);
      this.frames.push(payload);
      handlers[payload.topic]?.(payload.data);
    });
  }

  // What is sent before it is open waits until then.
  updateSite(site) {
    this.socket.send(describedFrame({ action: 'updatesubscribersite', site }));
  }

  untilOpen() {
    return deployment.until(() => this.socket.readyState === WebSocket.OPEN, () => 'the socket is not open');
  }

  untilCame(count) {
    return deployment.until(() => this.frames.length >= count, () => `${count} frames expected, got ${JSON.stringify(this.frames)}`);
  }
}

// The page, for a site and, if there is one, the site of its weather and
// enclosure, over a connection of its own.
export class Page {
  shown = []; // by the handler of the topic

  constructor(test, site, wemaSite, { httpUrl = deployment.httpUrl, wsUrl = deployment.wsUrl } = {}) {
    this.httpUrl = httpUrl;
    const handlers = { userstatus: (data) => this.shown.push(data) };
    this.primary = new Stream(test, wsUrl, site, handlers);
    if (wemaSite) this.wema = new Stream(test, wsUrl, wemaSite, handlers);
    this.show(site, wemaSite);
  }

  // On load and on each change of the site.
  show(site, wemaSite) {
    this.site = site;
    this.primary.updateSite(site);
    this.wema?.updateSite(wemaSite);
  }

  untilShown(...texts) {
    return deployment.until(
      () => this.shown.length >= texts.length && texts.every((text) => this.shown.some(({ message }) => message === text)),
      () => `${texts} expected, got ${JSON.stringify(this.shown)}`,
    );
  }

  async history() {
    const params = new URLSearchParams({ after_time: deployment.now() - 86400, site: this.site });
    const response = await axios.get(this.httpUrl + '/recent-logs?' + params);
    return response.data;
  }
}
