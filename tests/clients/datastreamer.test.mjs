// Today's web frontend, with nothing but its two addresses changed.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';

import { Page } from './datastreamer.mjs';
import { Frontend } from './frontend.mjs';
import { newSite, now, onlyLocal, post, Server, wsUrl } from './support.mjs';

// The frames by which it is told of a change of the site, and of a message.
const subscribed = (site) => ({ action: 'subscribed', site: [site], level: 'debug' });
const data = (site, message, timestamp, log_level = 'info') => ({ site, message, log_level, timestamp: `${timestamp}` });
const userstatus = (...of) => ({ site: of[0], topic: 'userstatus', data: data(...of) });

test('On load it says its site, and then each message comes under its topic with exactly its fields', async (t) => {
  const site = newSite();
  const start = now() - 100;
  await post({ site, log_message: 'before', log_level: 'DEBUG', timestamp: start + 0.5 });
  const page = new Page(t, site);
  await page.primary.untilCame(1);
  await post({ site, log_message: 'Dome öffnet\n🔭', log_level: 'WARN', timestamp: start + 10.25 });
  await page.untilShown('Dome öffnet\n🔭');

  assert.deepEqual(page.primary.frames, [
    subscribed(site),
    userstatus(site, 'Dome öffnet\n🔭', start + 10, 'warning'),
  ]);
  assert.deepEqual(page.shown, [data(site, 'Dome öffnet\n🔭', start + 10, 'warning')]);
  assert.deepEqual(await page.history(), [
    { message: 'Dome öffnet\n🔭', log_level: 'warning', timestamp: start + 10.25, id: `${start + 10}.250000` },
    { message: 'before', log_level: 'debug', timestamp: start + 0.5, id: `${start}.500000` },
  ]);
});

test('A change of the site has the same connection bring the messages of the new one, and no others', async (t) => {
  const [first, second] = [newSite(), `${newSite()} & ü?/`];
  const start = now() - 100;
  await post({ site: second, log_message: 'second, before', timestamp: start });
  const page = new Page(t, first);
  await page.primary.untilCame(1);
  await post({ site: first, log_message: 'first', timestamp: start });
  await page.untilShown('first');

  page.show(second);
  await page.primary.untilCame(3);
  await post({ site: first, log_message: 'not any more', timestamp: start + 1 });
  await post({ site: second, log_message: 'second', timestamp: start + 1 });
  await page.untilShown('first', 'second');
  page.show(first);
  await page.primary.untilCame(5);
  await post({ site: first, log_message: 'first again', timestamp: start + 2 });
  await page.untilShown('first', 'second', 'first again');

  assert.deepEqual(page.primary.frames, [
    subscribed(first),
    userstatus(first, 'first', start),
    subscribed(second),
    userstatus(second, 'second', start + 1),
    subscribed(first),
    userstatus(first, 'first again', start + 2),
  ]);
  assert.deepEqual((await page.history()).map(({ message }) => message), ['first again', 'not any more', 'first']);
  page.site = second;
  assert.deepEqual((await page.history()).map(({ message }) => message), ['second', 'second, before']);
});

test('With two connections, each brings the messages of its own site', async (t) => {
  const [site, wema, other, otherWema] = Array.from({ length: 4 }, newSite);
  const start = now() - 100;
  const send = (of, log_message) => post({ site: of, log_message, timestamp: start });
  const page = new Page(t, site, wema);
  await Promise.all([page.primary.untilCame(1), page.wema.untilCame(1)]);
  await send(site, 'Slewing');
  await send(wema, 'Rain');
  await page.untilShown('Slewing', 'Rain');

  page.show(other, otherWema);
  await Promise.all([page.primary.untilCame(3), page.wema.untilCame(3)]);
  await send(site, 'not any more');
  await send(wema, 'nor this');
  await send(other, 'Parked');
  await send(otherWema, 'Fog');
  await page.untilShown('Slewing', 'Rain', 'Parked', 'Fog');

  const frames = (...of) => of.flatMap(([name, text]) => [subscribed(name), userstatus(name, text, start)]);
  assert.deepEqual(page.primary.frames, frames([site, 'Slewing'], [other, 'Parked']));
  assert.deepEqual(page.wema.frames, frames([wema, 'Rain'], [otherWema, 'Fog']));
});

test('Both frontends and a script at once: each gets a message in its own shape', async (t) => {
  const site = newSite();
  const timestamp = now() - 100;
  const page = new Page(t, site);
  const other = await Frontend.connect(t, site);
  await page.primary.untilCame(1);
  await post({ site, log_message: 'for both', timestamp });
  await Promise.all([page.untilShown('for both'), other.untilShown(1)]);
  assert.deepEqual(page.primary.frames, [subscribed(site), userstatus(site, 'for both', timestamp)]);
  assert.deepEqual(other.frames, [{ ...data(site, 'for both', timestamp), id: `${timestamp}.000000` }]);
});

// It reconnects with its first address, and sends nothing then.
for (const [base, shape] of [['/?topic=userstatus&', userstatus], ['', (...of) => ({ ...data(...of), id: `${of[2]}.000000` })]]) {
  const promise = base
    ? 'With the topic in its address it gets its messages after a reconnect too, without a word'
    : 'Without the topic in its address it gets plain frames after a reconnect, until the site changes';
  test(promise, onlyLocal('a deployment cannot be restarted from here'), async (t) => {
    const [site, other] = [newSite(), newSite()];
    const start = now() - 100;
    const server = await Server.start(t);
    const send = (of, log_message, second) => post({ site: of, log_message, timestamp: start + second }, server.httpUrl);
    const page = new Page(t, site, undefined, { httpUrl: server.httpUrl, wsUrl: server.wsUrl + base });
    const { primary } = page;
    await primary.untilCame(1);
    await send(site, 'before', 0);
    await primary.untilCame(2);

    const closed = once(primary.socket, 'close');
    await server.stop('SIGTERM');
    await closed;
    await server.start();
    await primary.untilOpen();
    await send(site, 'after', 1);
    await primary.untilCame(3);
    page.show(other);
    await primary.untilCame(4);
    await send(other, 'of the other', 2);
    await primary.untilCame(5);
    assert.deepEqual(primary.frames, [
      subscribed(site),
      userstatus(site, 'before', start),
      shape(site, 'after', start + 1),
      subscribed(other),
      userstatus(other, 'of the other', start + 2),
    ]);
    // Frames without a topic are passed over, and are in the history.
    assert.deepEqual(page.shown.map(({ message }) => message), base ? ['before', 'after', 'of the other'] : ['before', 'of the other']);
    page.site = site;
    assert.deepEqual((await page.history()).map(({ message }) => message), ['after', 'before']);
  });
}

test('With the topic in its address the first message needs no word of the page', async (t) => {
  const site = newSite();
  const timestamp = now() - 100;
  const frontend = await Frontend.connect(t, site, { wsUrl: `${wsUrl}?topic=userstatus&` });
  await post({ site, log_message: 'at once', timestamp });
  await frontend.untilShown(1);
  assert.deepEqual(frontend.frames, [userstatus(site, 'at once', timestamp)]);
});
