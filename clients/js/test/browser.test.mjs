// The client in Chromium, against real servers.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';

import { chromium } from 'playwright-core';

import { assertShown, newSite, now, Proxy, send, Server, sleep, storm, until } from './support.mjs';

const FILES = {
  '/logstream.js': '../logstream.js',
  '/examples/vue.js': '../examples/vue.js',
  '/vue2.js': '../node_modules/vue2/dist/vue.js',
  '/vue3.js': '../node_modules/vue/dist/vue.global.js',
};

let browser, files, origin;
before(async () => {
  // Another origin than the server's, as for every frontend.
  files = createServer(async ({ url }, response) => {
    const file = FILES[url];
    response.setHeader('Content-Type', file ? 'text/javascript' : 'text/html');
    response.end(file ? await readFile(new URL(file, import.meta.url)) : '<!doctype html><link rel="icon" href="data:,"><div id="app"></div>');
  });
  files.listen(0, '127.0.0.1');
  await once(files, 'listening');
  origin = `http://127.0.0.1:${files.address().port}`;
  browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: [
      '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync',
    ],
  });
});
after(async () => {
  await browser?.close();
  files?.close();
});

// A test with a server, a proxy and a tab of its own.
function pageTest(name, run) {
  test(name, { timeout: 120_000 }, async (t) => {
    const server = await Server.start(t);
    const proxy = await Proxy.start(t, server);
    const context = await browser.newContext();
    try {
      const page = await context.newPage();
      const errors = [];
      page.on('pageerror', (error) => errors.push(String(error)));
      await run({ t, server, proxy, context, page, site: newSite() });
      assert.deepEqual(errors, []);
    } finally {
      await context.close();
    }
  });
}

// Watches in the page. `seen` there has what was handed over.
async function watch(page, http, site, options = {}) {
  await page.goto(origin);
  await page.evaluate(async ({ http, site, options }) => {
    const { watch } = await import('/logstream.js');
    const seen = { list: [], added: [], calls: 0, states: [], disorder: 0 };
    seen.watch = watch({ http, sites: site, ...options }, {
      messages(list, added) {
        for (let place = 1; place < list.length; place++) {
          if (Number(list[place - 1].id) >= Number(list[place].id)) seen.disorder += 1;
        }
        seen.list = list;
        seen.added.push(...added);
        seen.calls += 1;
      },
      state(state) {
        seen.states.push(state);
        seen.state = state;
      },
    });
    globalThis.seen = seen;
  }, { http, site, options });
}

const isComplete = (page) => page.evaluate(() => seen.state?.complete && seen.watch.state.complete);
const stateOf = (page) => page.evaluate(() => seen.state?.state);
const textsOf = (page) => page.evaluate(() => seen.list.map(({ message }) => message));

async function untilShown(page, ...texts) {
  let shown;
  await until(
    async () => JSON.stringify(shown = await textsOf(page)) === JSON.stringify(texts),
    () => `expected ${JSON.stringify(texts)}, shown ${JSON.stringify(shown)}`,
  );
}

pageTest('After 200 cuts while messages flow nothing is missing, nothing comes twice, all is in order', async ({ t, server, proxy, page, site }) => {
  const sender = send(server, site);
  await watch(page, proxy.url, site, { backoff: [0.005, 0.05] });
  await storm(proxy, 200, () => isComplete(page));
  const texts = await sender.stop();
  await until(() => isComplete(page));
  await until(async () => (await textsOf(page)).length >= texts.length, async () => `${(await textsOf(page)).length} of ${texts.length}`);
  const { list, added, disorder } = await page.evaluate(() => ({ list: seen.list, added: seen.added, disorder: seen.disorder }));
  assert.equal(disorder, 0);
  await assertShown(server, site, texts, list, added);
  t.diagnostic(`${proxy.cuts} cuts, ${proxy.cutAnswers} of them in an answer of recent-logs, ${texts.length} messages`);
});

pageTest('A page draws once for all messages that came together', async ({ server, page, site }) => {
  for (let number = 0; number < 200; number++) await server.post({ site, log_message: `${number}`, timestamp: now() - 1000 + number });
  await watch(page, server.url, site);
  await until(() => isComplete(page));
  assert.deepEqual(await page.evaluate(() => [seen.list.length, seen.calls]), [200, 1]);
  // While the page is busy, frames gather.
  const busy = page.evaluate(() => {
    for (const end = Date.now() + 1500; Date.now() < end;);
  });
  for (let number = 0; number < 50; number++) await server.post({ site, log_message: `live ${number}` });
  await busy;
  await until(async () => (await textsOf(page)).length === 250);
  const calls = await page.evaluate(() => seen.calls);
  assert.ok(calls <= 6, `${calls} calls`);
});

pageTest('All parts of a page share one connection', async ({ server, proxy, page, site }) => {
  await server.post({ site, log_message: 'stored' });
  await watch(page, proxy.url, site);
  await page.evaluate(async ({ http, site }) => {
    const { watch } = await import('/logstream.js');
    globalThis.other = [];
    globalThis.otherWatch = watch({ http, sites: [site], level: 'error' }, { messages: (list) => { globalThis.other = list; } });
  }, { http: proxy.url, site });
  await untilShown(page, 'stored');
  await server.post({ site, log_message: 'bad', log_level: 'error' });
  await untilShown(page, 'stored', 'bad');
  await until(async () => await page.evaluate(() => other.map(({ message }) => message).join()) === 'bad');
  assert.equal(proxy.sockets, 1);
});

pageTest('A page that slept reconnects at once and shows what it missed', async ({ server, proxy, page, site }) => {
  await page.clock.install();
  await watch(page, proxy.url, site, { timeout: 4 });
  await until(() => isComplete(page));
  // The network of before the sleep is gone, and nobody has closed the socket.
  proxy.freeze();
  await server.post({ site, log_message: 'missed' });
  await page.clock.fastForward('20:00');
  // Sooner than an answer to a ping would be missed.
  await until(() => proxy.sockets === 2, () => `${proxy.sockets} sockets`, 3);
  // The browser's connection for requests is gone too, and is given up first.
  await untilShown(page, 'missed');
  assert.equal(proxy.sockets, 2);
});

pageTest('A page that is seen again does not wait for the next attempt', async ({ server, proxy, page, site }) => {
  await page.clock.install();
  await watch(page, proxy.url, site);
  await until(() => isComplete(page));
  // The page's clock stands still, so only an event makes it reconnect.
  await page.clock.pauseAt(Date.now() + 1000);
  proxy.cut();
  await until(() => page.evaluate(() => seen.watch.state.state === 'connecting'));
  await server.post({ site, log_message: 'missed' });
  await sleep(300);
  assert.equal(proxy.sockets, 1);
  await page.evaluate(() => document.dispatchEvent(new Event('visibilitychange')));
  await until(() => proxy.sockets === 2);
  await page.clock.resume();
  await untilShown(page, 'missed');
});

pageTest('The state says when the browser is offline, and the client comes back with the network', async ({ server, proxy, context, page, site }) => {
  await watch(page, proxy.url, site, { backoff: [1, 30] });
  await until(() => isComplete(page));
  await context.setOffline(true);
  proxy.cut();
  await until(async () => await stateOf(page) === 'offline', () => page.evaluate(() => JSON.stringify(seen.states)));
  assert.equal(await page.evaluate(() => seen.state.complete), false);
  await server.post({ site, log_message: 'missed' });
  await context.setOffline(false);
  await untilShown(page, 'missed');
  await until(() => isComplete(page));
  assert.equal(await stateOf(page), 'live');
});

for (const version of [2, 3]) {
  pageTest(`The mixin shows the messages with Vue ${version}, drawn once`, async ({ server, proxy, page, site }) => {
    const other = newSite();
    for (let number = 0; number < 20; number++) await server.post({ site, log_message: `<b>${number}</b>`, timestamp: now() - 100 + number });
    await server.post({ site: other, log_message: 'of the other' });
    const warnings = [];
    page.on('console', (entry) => { if (['warning', 'error'].includes(entry.type())) warnings.push(entry.text()); });
    await page.goto(origin);
    await page.addScriptTag({ url: `/vue${version}.js` });
    await page.evaluate(async ({ http, site }) => {
      const { logstream } = await import('/examples/vue.js');
      globalThis.draws = 0;
      const component = {
        mixins: [logstream({ http })],
        data: () => ({ sites: [site] }),
        template: '<div>{{ logState.state }}<p v-for="log in logs" :key="log.site + log.id">{{ log.message }}</p></div>',
        updated() { if (this.logs.length > 0) globalThis.draws += 1; },
      };
      if (Vue.createApp) {
        const app = Vue.createApp(component);
        globalThis.component = app.mount('#app');
        globalThis.leave = () => app.unmount();
      } else {
        globalThis.component = new Vue({ ...component, el: '#app' });
        globalThis.leave = () => globalThis.component.$destroy();
      }
    }, { http: proxy.url, site });
    const rows = page.locator('p');
    await until(async () => await rows.count() === 20);
    await page.getByText('live').waitFor();
    assert.equal(await rows.first().textContent(), '<b>0</b>');
    assert.equal(await page.evaluate(() => draws), 1);
    await page.evaluate((other) => { component.sites = [other]; }, other);
    await until(async () => (await rows.allTextContents()).join() === 'of the other');
    await page.evaluate(() => leave());
    await server.post({ site: other, log_message: 'too late' });
    await until(async () => (await (await fetch(`${server.url}/onlineusers?site=${other}`)).json()).length === 0);
    assert.deepEqual(warnings.filter((text) => !/development|dev build|devtools/i.test(text)), []);
  });
}
