// What a page does that was written before this client: the calls of the web
// frontend. A test changes one line of it.

import axios from 'axios';
import ReconnectingWebSocket from 'reconnecting-websocket';

export class Page {
  logs = [];

  constructor(endpoint, api, site, options) {
    this.socket = new ReconnectingWebSocket(endpoint + '?site=' + site, [], options);
    this.socket.onmessage = (event) => { this.logs.push(JSON.parse(event.data)); };
    this.load(api, site);
  }

  async load(api, site) {
    const afterTime = Math.floor(Date.now() / 1000) - 86400;
    const response = await axios.get(api + '/recent-logs?after_time=' + afterTime + '&site=' + site);
    this.logs = this.logs.concat(response.data).sort((a, b) => a.timestamp - b.timestamp);
    this.isLoaded = true;
  }
}
