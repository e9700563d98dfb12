// The client in Node, against real servers.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import WebSocket from 'ws';

import { Logstream, ReconnectingWebSocket } from '../logstream.js';
import { assertShown, assertSorted, newSite, now, Proxy, send, Server, sleep, storm, until } from './support.mjs';

const QUICK = { WebSocket, backoff: [0.005, 0.05] };

// A watch that keeps what it is given.
function watch(t, url, options, connection = {}, stream = new Logstream(url, undefined, { ...QUICK, ...connection })) {
  const seen = { list: [], added: [], calls: 0, states: [], errors: [] };
  seen.watch = stream.watch(options, {
    messages(list, added) {
      // A failure in a callback is nobody's.
      try { assertSorted(list.filter(({ id }) => id)); } catch (error) { seen.errors.push(error.message); }
      seen.list = list;
      seen.added.push(...added);
      seen.calls += 1;
    },
    state(state) {
      seen.states.push(state);
      seen.state = state;
    },
  });
  t.after(() => seen.watch.stop());
  seen.stream = stream;
  seen.texts = () => seen.list.map(({ message }) => message);
  seen.isComplete = () => seen.watch.state.complete && seen.state?.complete;
  seen.untilComplete = () => until(seen.isComplete, () => JSON.stringify(seen.watch.state));
  seen.untilShown = (...texts) => until(
    () => JSON.stringify(seen.texts()) === JSON.stringify(texts),
    () => `expected ${JSON.stringify(texts)}, shown ${JSON.stringify(seen.texts())}`,
  );
  return seen;
}

test('After 1,000 cuts while messages flow nothing is missing, nothing comes twice, all is in order', { timeout: 300_000 }, async (t) => {
  const server = await Server.start(t);
  const [rounds, clients, cuts] = [5, 4, 50];
  let count = 0, answers = 0, messages = 0;
  for (let round = 0; round < rounds; round++) {
    const site = newSite();
    const sender = send(server, site);
    const watches = await Promise.all(Array.from({ length: clients }, async () => {
      const proxy = await Proxy.start(t, server);
      const seen = watch(t, proxy.url, { sites: site });
      await storm(proxy, cuts, seen.isComplete);
      count += proxy.cuts;
      answers += proxy.cutAnswers;
      return seen;
    }));
    const texts = await sender.stop();
    messages += texts.length;
    for (const seen of watches) {
      await seen.untilComplete();
      await until(() => seen.list.length >= texts.length, () => `${seen.list.length} of ${texts.length}`);
      assert.deepEqual(seen.errors, []);
      await assertShown(server, site, texts, seen.list, seen.added);
      seen.watch.stop();
    }
  }
  assert.ok(count >= 1000 && answers > 50, `${count} cuts, ${answers} in an answer`);
  t.diagnostic(`${count} cuts, ${answers} of them in an answer of recent-logs, ${messages} messages to ${clients} clients`);
});

test('Messages that come together are handed over at once', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  for (let number = 0; number < 300; number++) await server.post({ site, log_message: `${number}`, timestamp: now() - 1000 + number });
  const seen = watch(t, server.url, { sites: site });
  await seen.untilComplete();
  assert.equal(seen.list.length, 300);
  assert.equal(seen.calls, 1);

  // Frames that lie in the socket when the page is busy.
  await Promise.all(Array.from({ length: 100 }, (_, number) => server.post({ site, log_message: `live ${number}` })));
  await until(() => seen.list.length === 400, () => seen.list.length);
  assert.ok(seen.calls < 50, `${seen.calls} calls for 100 messages`);
  assert.equal(seen.added.length, 400);
});

test('The history is asked for only once the socket is open', async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const site = newSite();
  let open;
  proxy.mayOpen = new Promise((resolve) => { open = resolve; });
  const seen = watch(t, proxy.url, { sites: site });
  await until(() => proxy.sockets === 1);
  await sleep(200);
  // Too early for the socket. It must not be too late for the history.
  await server.post({ site, log_message: 'in between' });
  assert.deepEqual(proxy.histories, []);
  open();
  await seen.untilShown('in between');
});

test('A live message waits for the older ones of a catch-up', async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const site = newSite();
  await server.post({ site, log_message: 'before' });
  let answer, mayAnswer;
  const holdBack = () => { mayAnswer = new Promise((resolve) => { answer = resolve; }); };
  holdBack();
  const slow = async (...request) => {
    await mayAnswer;
    return fetch(...request);
  };
  const seen = watch(t, proxy.url, { sites: site }, { fetch: slow });
  await until(() => seen.state?.state === 'catching up');
  await server.post({ site, log_message: 'live' });
  await sleep(200);
  assert.equal(seen.calls, 0);
  answer();
  await seen.untilShown('before', 'live');
  assert.equal(seen.calls, 1);
  assert.deepEqual(seen.states.slice(-2).map(({ state, complete }) => [state, complete]), [
    ['catching up', false], ['live', true],
  ]);

  // Also after a loss of the connection.
  holdBack();
  proxy.cut();
  await until(() => seen.state.state === 'catching up');
  assert.equal(seen.state.complete, false);
  await server.post({ site, log_message: 'live again' });
  await sleep(200);
  assert.equal(seen.calls, 1);
  answer();
  await seen.untilShown('before', 'live', 'live again');
});

test('If the history does not come, live messages are shown after a while, and the state says what is missing', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  await server.post({ site, log_message: 'before' });
  // Until then it may be on its way to those that connect.
  const earlier = watch(t, server.url, { sites: site });
  await earlier.untilShown('before');
  await sleep(300);
  let isBroken = true;
  const seen = watch(t, server.url, { sites: site }, {
    hold: 0.3,
    fetch: (...request) => isBroken ? Promise.reject(new Error('no network')) : fetch(...request),
  });
  await until(() => seen.state?.error);
  assert.deepEqual(seen.state, { state: 'live', complete: false, error: 'no network' });
  await server.post({ site, log_message: 'live' });
  await seen.untilShown('live');
  isBroken = false;
  await seen.untilShown('before', 'live');
  await seen.untilComplete();
  assert.deepEqual(seen.state, { state: 'live', complete: true });
});

test('A history of several pages is fetched to its end, also when a page fails', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  const texts = Array.from({ length: 8 }, (_, number) => `${number}`);
  for (const text of texts) await server.post({ site, log_message: text, timestamp: now() - 100 + Number(text) });
  let requests = 0;
  const seen = watch(t, server.url, { sites: site }, {
    fetch: (url, options) => {
      requests += 1;
      if (requests === 2) return Promise.reject(new Error('no network'));
      return fetch(String(url).replace(/limit=\d+/, 'limit=3'), options);
    },
  });
  await seen.untilShown(...texts);
  await seen.untilComplete();
  assert.equal(requests, 5);
  assert.equal(seen.calls, 1);
});

test('A history that does not answer is asked for again', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  await server.post({ site, log_message: 'stored' });
  let requests = 0;
  const seen = watch(t, server.url, { sites: site }, {
    timeout: 0.3,
    backoff: [0.1, 0.2],
    fetch: (url, options) => {
      requests += 1;
      if (requests > 1) return fetch(url, options);
      return new Promise((_, reject) => options.signal.addEventListener('abort', () => reject(new Error('aborted'))));
    },
  });
  await seen.untilComplete();
  await seen.untilShown('stored');
  assert.equal(requests, 2);
  assert.ok(seen.states.some(({ error }) => error === 'no answer in time'));
});

test('Another site is shown without the messages of the first, whose late answer is dropped', async (t) => {
  const server = await Server.start(t);
  const [first, second] = [newSite(), newSite()];
  await server.post({ site: first, log_message: 'of the first' });
  await server.post({ site: second, log_message: 'of the second' });
  let answer;
  const mayAnswer = new Promise((resolve) => { answer = resolve; });
  // Takes no notice of being aborted, as an answer that is already there.
  const late = async (url) => {
    const result = await fetch(url);
    if (String(url).includes(first)) await mayAnswer;
    return result;
  };
  const seen = watch(t, server.url, { sites: first }, { fetch: late });
  await until(() => seen.state?.state === 'catching up');
  seen.watch.show(second);
  await seen.untilShown('of the second');
  answer();
  await sleep(200);
  assert.deepEqual(seen.texts(), ['of the second']);
  assert.deepEqual(seen.added.map(({ site }) => site), [second]);
  await server.post({ site: first, log_message: 'of the first, live' });
  await server.post({ site: second, log_message: 'of the second, live' });
  await seen.untilShown('of the second', 'of the second, live');
  seen.watch.show(first);
  await seen.untilShown('of the first', 'of the first, live');
  assert.deepEqual(seen.errors, []);
});

test('A page that changes its site clears the list at once', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  await server.post({ site, log_message: 'old' });
  const seen = watch(t, server.url, { sites: site });
  await seen.untilShown('old');
  await server.stop('SIGTERM');
  seen.watch.show(newSite());
  await seen.untilShown();
});

test('Every part of a page shares one connection', async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const site = newSite();
  const one = watch(t, proxy.url, { sites: site });
  const two = watch(t, proxy.url, { sites: [site] }, {}, one.stream);
  await Promise.all([one.untilComplete(), two.untilComplete()]);
  await server.post({ site, log_message: 'to both' });
  await Promise.all([one.untilShown('to both'), two.untilShown('to both')]);
  assert.equal(proxy.sockets, 1);
  // A later one has the history too, and nobody else is disturbed.
  const calls = one.calls;
  const three = watch(t, proxy.url, { sites: site }, {}, one.stream);
  await three.untilShown('to both');
  assert.equal(proxy.sockets, 1);
  assert.equal(one.calls, calls);
  one.watch.stop();
  await server.post({ site, log_message: 'to the others' });
  await two.untilShown('to both', 'to the others');
  assert.deepEqual(one.texts(), ['to both']);
});

test('Only messages of the level or above are shown', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  for (const log_level of ['debug', 'critical', 'info', 'warning']) await server.post({ site, log_message: log_level, log_level });
  const seen = watch(t, server.url, { sites: site, level: 'warning' });
  await seen.untilShown('critical', 'warning');
  for (const log_level of ['info', 'error']) await server.post({ site, log_message: `live ${log_level}`, log_level });
  await seen.untilShown('critical', 'warning', 'live error');
});

test('A connection is replaced before the server ends it, without a gap and without a change of the state', { timeout: 60_000 }, async (t) => {
  const server = await Server.start(t, '--max-connection-age', '3');
  const proxy = await Proxy.start(t, server);
  const site = newSite();
  const seen = watch(t, proxy.url, { sites: site }, { renew: 1.5 });
  await seen.untilComplete();
  const sender = send(server, site);
  await until(() => proxy.sockets >= 5);
  const texts = await sender.stop();
  await until(() => seen.list.length === texts.length, () => `${seen.list.length} of ${texts.length}`);
  await assertShown(server, site, texts, seen.list, seen.added);
  assert.equal(seen.states.filter(({ state }) => state === 'live').length, 1);
  assert.deepEqual(seen.states.at(-1), { state: 'live', complete: true });
});

test('A quiet connection stays open beyond the idle time', { timeout: 60_000 }, async (t) => {
  const server = await Server.start(t, '--idle-timeout', '2');
  const proxy = await Proxy.start(t, server);
  const site = newSite();
  const seen = watch(t, proxy.url, { sites: site }, { ping: 0.8 });
  await seen.untilComplete();
  await sleep(6000);
  assert.equal(proxy.sockets, 1);
  assert.equal(seen.states.filter(({ state }) => state === 'live').length, 1);
  assert.deepEqual(seen.states.at(-1), { state: 'live', complete: true });
  await server.post({ site, log_message: 'still here' });
  // The answers to the pings are no messages.
  await seen.untilShown('still here');
});

test('A connection that is silently gone is noticed and replaced', async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const site = newSite();
  const seen = watch(t, proxy.url, { sites: site }, { ping: 0.5, timeout: 0.5, backoff: [0.1, 0.2] });
  await seen.untilComplete();
  seen.states.length = 0;
  proxy.freeze();
  await server.post({ site, log_message: 'missed' });
  await seen.untilShown('missed');
  assert.ok(seen.states.some(({ state, complete }) => state === 'connecting' && !complete));
});

test('After crashes of the server nothing is missing and nothing comes twice', { timeout: 60_000 }, async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  const seen = watch(t, server.url, { sites: site });
  const texts = [];
  const post = async (text) => {
    await server.post({ site, log_message: text, timestamp: Date.now() / 1000 });
    texts.push(text);
  };
  for (let round = 0; round < 3; round++) {
    await seen.untilComplete();
    for (let number = 0; number < 10; number++) await post(`${round}: live ${number}`);
    await server.stop('SIGKILL');
    await until(() => seen.state.state === 'connecting');
    await server.start();
    // In a race with the client's reconnect.
    for (let number = 0; number < 10; number++) await post(`${round}: after the crash ${number}`);
  }
  await seen.untilShown(...texts);
  await assertShown(server, site, texts, seen.list, seen.added);
});

test('Waits between attempts grow, are random, and are short again after a good connection', { timeout: 60_000 }, async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const seen = watch(t, proxy.url, { sites: newSite() }, { backoff: [0.1, 1.6], stable: 0.2 });
  const slack = 300; // of a busy machine
  const waits = [];
  for (let outage = 0; outage < 2; outage++) {
    await seen.untilComplete();
    await sleep(300);
    proxy.refused = [Date.now()];
    proxy.isRefusing = true;
    proxy.cut();
    await until(() => proxy.refused.length >= 6);
    proxy.isRefusing = false;
    const gaps = proxy.refused.slice(1).map((time, place) => time - proxy.refused[place]);
    for (const [place, gap] of gaps.entries()) {
      assert.ok(gap >= 95 && gap < 100 * 2 ** Math.min(4, place + 1) + slack, `${gaps}`);
    }
    assert.ok(Math.max(...gaps.slice(2)) > 150, `${gaps}`);
    waits.push(gaps);
  }
  assert.notDeepEqual(waits[0], waits[1]);
});

test('What is older than the time shown, or too many, is forgotten', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  for (let number = 0; number < 12; number++) await server.post({ site, log_message: `${number}`, timestamp: now() - 100 + number });
  const seen = watch(t, server.url, { sites: site, max: 5 });
  await seen.untilShown('7', '8', '9', '10', '11');
  await server.post({ site, log_message: 'older', timestamp: now() - 1000 });
  await server.post({ site, log_message: 'newer' });
  await seen.untilShown('8', '9', '10', '11', 'newer');
  assert.ok(!seen.added.some(({ message }) => message === 'older'));

  const short = watch(t, server.url, { sites: site, seconds: 3 }, { ping: 1 });
  await short.untilShown('newer');
  await short.untilShown();
});

test('A frame without an id is shown each time, where it appeared', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  const seen = watch(t, server.url, { sites: site });
  await server.post({ site, log_message: 'ahead', timestamp: now() + 1000 });
  await seen.untilShown('ahead');
  for (let time = 0; time < 2; time++) {
    seen.watch.send({ action: 'newlog', site, log_message: 7 });
    await until(() => seen.list.length === 2 + time);
  }
  await server.post({ site, log_message: 'later', timestamp: now() + 2000 });
  await until(() => seen.list.length === 4);
  assert.match(seen.texts()[1], /log_message/);
  assert.deepEqual(seen.texts(), ['ahead', seen.texts()[1], seen.texts()[1], 'later']);
});

test('A change of the site needs no new connection', async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const [first, second] = [newSite(), newSite()];
  await server.post({ site: second, log_message: 'earlier' });
  const seen = watch(t, proxy.url, { sites: first });
  await seen.untilComplete();
  for (const [round, site] of [second, first, second].entries()) {
    seen.watch.show(site);
    await seen.untilComplete();
    await server.post({ site, log_message: `live ${round}` });
    await until(() => seen.texts().at(-1) === `live ${round}`, () => JSON.stringify(seen.texts()));
  }
  await seen.untilShown('earlier', 'live 0', 'live 2');
  assert.equal(proxy.sockets, 1);
});

test('Several sites come over one connection, in one list, and can be changed', async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const sites = [newSite(), newSite(), newSite()];
  const start = now() - 100;
  for (const [place, site] of sites.entries()) await server.post({ site, log_message: `stored ${place}`, timestamp: start - place });
  const seen = watch(t, proxy.url, { sites: sites.slice(0, 2) });
  await seen.untilShown('stored 1', 'stored 0');
  assert.equal(proxy.histories.length, 1);
  for (const [place, site] of sites.entries()) await server.post({ site, log_message: `live ${place}`, timestamp: start + place });
  await seen.untilShown('stored 1', 'stored 0', 'live 0', 'live 1');
  assert.deepEqual(seen.list.map(({ site }) => site), [sites[1], sites[0], sites[0], sites[1]]);
  // Another part of the page, with other sites and another level.
  const other = watch(t, proxy.url, { sites: sites[2], level: 'error' }, {}, seen.stream);
  await other.untilComplete();
  await server.post({ site: sites[2], log_message: 'bad', log_level: 'error' });
  await server.post({ site: sites[2], log_message: 'fine' });
  await server.post({ site: sites[0], log_message: 'last' });
  await seen.untilShown('stored 1', 'stored 0', 'live 0', 'live 1', 'last');
  await other.untilShown('bad');
  assert.equal(proxy.sockets, 1);
  // After a cut all is asked for at once.
  proxy.cut();
  await until(() => !seen.watch.state.complete);
  await server.post({ site: sites[1], log_message: 'missed' });
  await seen.untilShown('stored 1', 'stored 0', 'live 0', 'live 1', 'last', 'missed');
  await other.untilComplete();
  assert.equal(proxy.sockets, 2);
});

test('Messages are in the order of their ids, to the last decimal', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  const seen = watch(t, server.url, { sites: site });
  await seen.untilComplete();
  for (const timestamp of ['99999999998.000002', '1000000000.5', '99999999998.000001', '999999999.5', '99999999998.000003']) {
    await server.post({ site, log_message: timestamp, timestamp });
  }
  await seen.untilShown('999999999.5', '1000000000.5', '99999999998.000001', '99999999998.000002', '99999999998.000003');
});

test('An eleventh site is refused to the part of the page that asks for it, and the others go on', async (t) => {
  const server = await Server.start(t);
  const sites = Array.from({ length: 12 }, newSite);
  const one = watch(t, server.url, { sites: sites.slice(0, 6) });
  const two = watch(t, server.url, { sites: sites.slice(4, 10) }, {}, one.stream);
  const expected = { name: 'RangeError', message: `A connection watches 10 sites at most, and with ${sites[10]} it would be 11.` };
  assert.throws(() => one.stream.watch({ sites: sites[10] }), expected);
  assert.throws(() => one.watch.show([...sites.slice(0, 4), sites[11]]), RangeError);
  assert.throws(() => new Logstream(server.url, undefined, QUICK).watch({ sites: sites.slice(0, 11) }), RangeError);
  await Promise.all([one.untilComplete(), two.untilComplete()]);
  await server.post({ site: sites[5], log_message: 'to both' });
  await Promise.all([one.untilShown('to both'), two.untilShown('to both')]);
  // What nobody watches any more makes room.
  one.watch.show(sites.slice(9, 11));
  two.watch.stop();
  await server.post({ site: sites[10], log_message: 'to the first' });
  await one.untilShown('to the first');
});

test('No part of a page can change with `send` what the others get', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  const seen = watch(t, server.url, { sites: site });
  await seen.untilComplete();
  const socket = new ReconnectingWebSocket(`${server.url.replace('http', 'ws')}?site=${site}`, [], QUICK);
  t.after(() => socket.close());
  for (const action of ['subscribe', 'updatesubscribersite']) {
    for (const sender of [seen.watch, seen.stream, socket]) {
      const expected = { name: 'TypeError', message: /use `show`/ };
      assert.throws(() => sender.send({ action, site: 'other' }), expected);
      assert.throws(() => sender.send(JSON.stringify({ action, site: 'other' }, null, 2)), expected);
    }
  }
  seen.watch.send({ action: 'newlog', site, log_message: '"action": "subscribe"', timestamp: now() });
  await seen.untilShown('"action": "subscribe"');
});

test('A frame of the data stream is not a message without a text', async (t) => {
  const server = await Server.start(t);
  const site = newSite();
  const frames = [];
  // As a page that has this socket too, and uses it.
  class Shared extends WebSocket {
    constructor(url) {
      super(url);
      this.on('open', () => this.send(JSON.stringify({ action: 'updatesubscribersite', site })));
      this.on('message', (data) => frames.push(JSON.parse(data)));
    }
  }
  const seen = watch(t, server.url, { sites: site }, { WebSocket: Shared });
  await seen.untilComplete();
  await until(() => frames.length > 0);
  await server.post({ site, log_message: 'live' });
  await until(() => frames.some(({ topic }) => topic === 'userstatus'), () => JSON.stringify(frames));
  // An answer behind it.
  seen.watch.send({ action: 'dance' });
  await until(() => seen.texts().at(-1) === 'Unrecognized WebSocket action.');
  assert.ok(!seen.texts().includes(undefined), JSON.stringify(seen.list));
});

test('The state says why there is no connection, from the first attempt that fails on', async (t) => {
  const server = await Server.start(t);
  const proxy = await Proxy.start(t, server);
  const error = `No connection to ${new URL(proxy.url).host}.`;
  proxy.isRefusing = true;
  const seen = watch(t, proxy.url, { sites: newSite() });
  await until(() => seen.state?.error, () => JSON.stringify(seen.states));
  assert.deepEqual(seen.state, { state: 'connecting', complete: false, error });
  proxy.isRefusing = false;
  await seen.untilComplete();
  assert.deepEqual(seen.state, { state: 'live', complete: true });
  // After a loss too.
  proxy.isRefusing = true;
  proxy.cut();
  await until(() => seen.state.error === error, () => JSON.stringify(seen.states));
});
