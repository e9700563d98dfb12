// What the tests share: servers of their own, a proxy that cuts connections,
// senders, and waiting for conditions.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

import WebSocket from 'ws';

export { sleep };

const binary = process.env.LOGSTREAM_SERVER;
assert.ok(binary, 'LOGSTREAM_SERVER is not set: start the tests with the script "run"');

// Only with letters that no test searches for: the console searches in sites too.
export const newSite = () => `test-${randomUUID().replace(/\d/g, (digit) => 'ghjkqvwxyz'[digit])}`;
export const now = () => Math.floor(Date.now() / 1000);

// Waits until the condition holds, and returns its result.
export async function until(condition, describe = () => '', seconds = 20) {
  for (const end = Date.now() + seconds * 1000; ;) {
    const found = await condition();
    if (found) return found;
    assert.ok(Date.now() < end, `in vain for ${seconds} s: ${await describe()}`);
    await sleep(5);
  }
}

// A server of a test's own, which can be stopped and started again on the same
// port with the same data.
export class Server {
  static async start(test, ...flags) {
    const server = new Server();
    server.flags = flags;
    server.dataDir = await mkdtemp(join(tmpdir(), 'logstream-'));
    test.after(async () => {
      await server.stop('SIGKILL');
      await rm(server.dataDir, { recursive: true });
    });
    await server.start();
    return server;
  }

  async start() {
    const flags = ['--port', this.port ?? '0', '--data-dir', this.dataDir, ...this.flags];
    this.child = spawn(binary, flags, { stdio: ['ignore', 'pipe', 'ignore'] });
    this.exited = once(this.child, 'exit');
    const [line] = await Promise.race([
      once(createInterface({ input: this.child.stdout }), 'line'),
      this.exited.then(([code]) => assert.fail(`the server ended with ${code}`)),
    ]);
    this.url = line.replace('listening on ', '');
    this.port = new URL(this.url).port;
  }

  async stop(signal) {
    this.child.kill(signal);
    await this.exited;
  }

  async post(message) {
    const answer = await fetch(`${this.url}/newlog`, { method: 'POST', body: JSON.stringify(message) });
    assert.equal(answer.status, 200, await answer.text());
  }

  // Everything that is stored, the oldest first.
  async history(site) {
    const messages = [];
    for (let url = `${this.url}/recent-logs?site=${site}`; url;) {
      const answer = await fetch(url);
      messages.push(...await answer.json());
      const next = /<(.*)>/.exec(answer.headers.get('Link'));
      url = next && new URL(next[1], url);
    }
    return messages.reverse();
  }
}

// Stands between a client and a server, and cuts.
export class Proxy {
  cuts = 0; // those that met an open WebSocket or a request
  cutAnswers = 0; // those in the middle of the answer of recent-logs
  refused = []; // when
  sockets = 0; // WebSockets that were asked for
  histories = []; // the queries of recent-logs
  isRefusing = false;
  mayCutAnswer = false;
  mayOpen; // a promise: until then no WebSocket is opened
  #pairs = new Set();

  static async start(test, server) {
    const proxy = new Proxy();
    const listener = createServer((client) => proxy.#accept(client, server.port));
    listener.listen(0, '127.0.0.1');
    await once(listener, 'listening');
    test.after(() => {
      listener.close();
      proxy.isRefusing = true;
      proxy.cut();
    });
    proxy.url = `http://127.0.0.1:${listener.address().port}`;
    return proxy;
  }

  #accept(client, port) {
    client.on('error', () => {});
    if (this.isRefusing) {
      this.refused.push(Date.now());
      client.destroy();
      return;
    }
    const server = connect(port, '127.0.0.1').on('error', () => {});
    const pair = { client, server, isBusy: false };
    this.#pairs.add(pair);
    client.on('data', (data) => {
      const text = data.toString('latin1');
      if (/^GET \S*recent-logs/.test(text)) {
        pair.isBusy = true;
        pair.isHistory = true;
        this.histories.push(new URL(text.split(' ', 2)[1], 'http://proxy').search);
      } else if (/^upgrade: websocket/im.test(text) && text.startsWith('GET ')) {
        pair.isBusy = true;
        this.sockets += 1;
      }
      if (pair.isFrozen) return;
      if (this.mayOpen && !pair.isHistory) this.mayOpen.then(() => server.write(data));
      else server.write(data);
    });
    server.on('data', (data) => {
      if (pair.isFrozen) return;
      if (pair.isHistory && this.mayCutAnswer) {
        this.mayCutAnswer = false;
        client.write(data.subarray(0, Math.random() * data.length), () => this.#end(pair));
        this.cuts += 1;
        this.cutAnswers += 1;
        return;
      }
      client.write(data);
    });
    client.on('close', () => this.#end(pair));
    server.on('close', () => this.#end(pair));
  }

  #end(pair) {
    this.#pairs.delete(pair);
    pair.client.destroy();
    pair.server.destroy();
  }

  // From now on the open connections swallow everything, as a network that is
  // gone.
  freeze() {
    for (const pair of this.#pairs) pair.isFrozen = true;
  }

  cut() {
    if ([...this.#pairs].some(({ isBusy }) => isBusy)) this.cuts += 1;
    for (const pair of this.#pairs) this.#end(pair);
  }
}

// Sends messages until stopped. With `isDisordered`, some have an older
// timestamp, and some the same as the one before.
export function send(server, site, { isDisordered = true, pause = 8 } = {}) {
  const texts = [];
  let isStopped = false;
  let timestamp = Date.now() / 1000;
  const done = (async () => {
    while (!isStopped) {
      const chance = isDisordered ? Math.random() : 1;
      if (chance > 0.1) timestamp = Date.now() / 1000 - (chance < 0.3 ? 5 * Math.random() : 0);
      const text = `message ${texts.length}`;
      await server.post({ site, log_message: text, timestamp });
      texts.push(text);
      await sleep(pause * Math.random());
    }
    return texts;
  })();
  return { texts, stop: () => { isStopped = true; return done; } };
}

// Cuts the connections of one client at random moments: also in the middle of
// an answer, and followed by a time in which nobody gets through.
export async function storm(proxy, cuts, isComplete) {
  while (proxy.cuts < cuts) {
    if (Math.random() < 0.5) await until(isComplete, () => 'the client does not become complete');
    await sleep(40 * Math.random());
    const kind = Math.random();
    proxy.isRefusing = kind < 0.2;
    proxy.mayCutAnswer = kind > 0.7;
    proxy.cut();
    if (proxy.isRefusing) await sleep(60 * Math.random());
    proxy.isRefusing = false;
  }
  proxy.mayCutAnswer = false;
}

// What a client must have shown: everything, once, in order.
export async function assertShown(server, site, texts, list, added) {
  const stored = await server.history(site);
  assert.deepEqual(stored.map(({ message }) => message).sort(), [...texts].sort());
  assert.deepEqual(list.map(({ id, message }) => [id, message]), stored.map(({ id, message }) => [id, message]));
  const ids = added.map(({ id }) => id);
  assert.equal(new Set(ids).size, ids.length, 'an id was handed over twice');
  assert.deepEqual([...ids].sort(), stored.map(({ id }) => id).sort());
}

export function assertSorted(list) {
  for (let place = 1; place < list.length; place++) {
    assert.ok(Number(list[place - 1].id) < Number(list[place].id), `${list[place - 1].id} before ${list[place].id}`);
  }
}
