// A folder that stands for the root of a machine on which an observatory hosts
// all of it: the commands of docs/self-hosting.md, the files of
// infra/self-hosting, the real server and the real nginx. systemd cannot run
// here, so a few lines stand for systemctl. The server is the tests' own build,
// and the certificate is self-signed.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import { until } from './support.mjs';

export const run = promisify(execFile);
const repository = fileURLToPath(new URL('../..', import.meta.url));

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  return port;
}

export class Machine {
  // The commands of the page, by the heading above them.
  static async prepare() {
    const machine = new Machine();
    machine.root = await mkdtemp(join(tmpdir(), 'logstream-machine-'));
    machine.port = await freePort();
    machine.tlsPort = await freePort();
    machine.http = `https://localhost:${machine.tlsPort}/logs`;
    machine.ws = machine.http.replace('http', 'ws');
    const page = await readFile(join(repository, 'docs/self-hosting.md'), 'utf8');
    machine.commands = new Map(page.split(/^## /m).slice(1).map((section) => [
      section.split('\n', 1)[0],
      [...section.matchAll(/^```sh\n(.*?)^```/gms)].map(([, block]) => block),
    ]));
    [, machine.rules] = /^```yaml\n(.*?)^```/ms.exec(page);
    for (const folder of ['usr/local/bin', 'etc/systemd/system', 'etc/nginx/conf.d', 'var/lib', 'var/backups', 'run']) {
      await mkdir(join(machine.root, folder), { recursive: true });
    }
    const [certificate, key] = ['fullchain.pem', 'privkey.pem'].map((name) => machine.at(`/etc/letsencrypt/live/logs.example.org/${name}`));
    await mkdir(join(certificate, '..'), { recursive: true });
    await run('openssl', [
      'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '1',
      '-subj', '/CN=logs.example.org', '-addext', 'subjectAltName=DNS:localhost,DNS:logs.example.org', '-out', certificate, '-keyout', key,
    ]);
    // In place of Debian's. The workers of a root must be able to enter this
    // folder.
    await writeFile(machine.at('/etc/nginx/nginx.conf'), `
      ${process.getuid() === 0 ? 'user root;' : ''}
      error_log stderr crit;
      pid ${machine.root}/run/nginx.pid;
      daemon off;
      events { worker_connections 768; }
      http {
        access_log off;
        ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${machine.root}/run/${name};`).join('\n')}
        include ${machine.root}/etc/nginx/conf.d/*.conf;
      }`);
    return machine;
  }

  at = (path) => this.root + path;

  // A text of the page or of a file, as it is for this machine.
  here(text) {
    return text
      .replaceAll(/(?<![\w.$%}/])\/(usr\/local|etc|var)\//g, `${this.root}/$1/`)
      .replaceAll(/\b8090\b/g, this.port)
      .replaceAll('https://logs.example.org', `https://localhost:${this.tlsPort}`)
      .replaceAll('listen 443', `listen 127.0.0.1:${this.tlsPort}`)
      .replaceAll(/^ *listen \[::\]:443.*\n/gm, '');
  }

  // Runs the next commands under a heading, and returns what they print.
  async follow(heading) {
    const block = this.commands.get(heading).shift();
    assert.ok(block, `no commands are left under "${heading}"`);
    let output = '';
    for (const line of this.here(block).trim().split('\n')) {
      const [command, ...words] = line.split(' ');
      if (command === 'systemctl') await this.systemctl(...words);
      // Done by "run" beside this file, and by whoever has the clone.
      else if (!/^(cargo build|apt-get install|git pull)/.test(line)) output += await this.shell(line);
    }
    return output;
  }

  async shell(line) {
    const target = process.env.LOGSTREAM_SERVER.replace(/logstream$/, '');
    const command = line
      .replace('target/release/', target)
      .replace(/^nginx/, `nginx -p ${this.root} -e stderr -c ${this.at('/etc/nginx/nginx.conf')}`);
    const { stdout, stderr } = await run('bash', ['-euo', 'pipefail', '-c', command], {
      cwd: repository,
      env: {
        ...process.env,
        PATH: `${this.at('/usr/local/bin')}:${process.env.PATH}:/usr/sbin:/sbin`,
        CURL_CA_BUNDLE: this.at('/etc/letsencrypt/live/logs.example.org/fullchain.pem'),
        NO_PROXY: 'localhost,127.0.0.1',
      },
    });
    // What was put onto the machine is for this machine.
    for (const file of await this.installed()) await writeFile(file, this.here(await readFile(file, 'utf8')));
    this.said = stderr;
    return stdout;
  }

  async installed() {
    const files = [];
    for (const folder of ['/etc/systemd/system', '/etc/nginx/conf.d']) {
      for (const entry of await readdir(this.at(folder), { recursive: true })) {
        const file = join(this.at(folder), entry);
        if ((await stat(file)).isFile()) files.push(file);
      }
    }
    return files;
  }

  async systemctl(...words) {
    const service = words.at(-1);
    if (service === 'daemon-reload') return;
    if (service === 'nginx') return this.reloadNginx();
    assert.equal(service, 'logstream');
    await this.stop();
    if (words[0] !== 'stop') await this.start();
  }

  // The service's own command.
  async start() {
    const units = (await this.installed()).filter((file) => file.includes('logstream.service'));
    const lines = (await Promise.all(units.sort().map((file) => readFile(file, 'utf8')))).join('\n').split('\n');
    const valuesOf = (name) => lines.filter((line) => line.startsWith(`${name}=`)).map((line) => line.slice(name.length + 1));
    // The drop-in's folder sorts behind the unit's file.
    const command = valuesOf('ExecStart').at(-1).replaceAll('%S', this.at('/var/lib')).replaceAll('%d', this.at('/run'));
    for (const credential of valuesOf('LoadCredential')) {
      const [name, file] = credential.split(':');
      await writeFile(join(this.at('/run'), name), await readFile(file));
    }
    const [program, ...flags] = command.split(' ');
    const child = spawn(program, flags, { stdio: ['ignore', 'pipe', 'inherit'] });
    this.server = { child, exited: once(child, 'exit') };
    const [line] = await Promise.race([
      once(createInterface({ input: child.stdout }), 'line'),
      this.server.exited.then(([code]) => assert.fail(`the server ended with ${code}`)),
    ]);
    assert.equal(line, `listening on http://127.0.0.1:${this.port}`);
  }

  async stop(signal = 'SIGTERM') {
    if (!this.server) return;
    this.server.child.kill(signal);
    await this.server.exited;
    this.server = undefined;
  }

  async reloadNginx() {
    assert.equal(this.nginx, undefined, 'the page reloads it once');
    const child = spawn('nginx', ['-p', this.root, '-e', 'stderr', '-c', this.at('/etc/nginx/nginx.conf')], {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` },
    });
    this.nginx = { child, exited: once(child, 'exit') };
    await until(() => fetch(`${this.http}/recent-logs?site=tst`).then(({ ok }) => ok, () => false), () => 'nginx does not answer');
  }

  async post(message, headers = {}) {
    return fetch(`${this.http}/newlog`, { method: 'POST', headers, body: JSON.stringify(message) });
  }

  async texts(site) {
    const answer = await fetch(`${this.http}/recent-logs?site=${site}`);
    return (await answer.json()).map(({ message }) => message);
  }

  async end() {
    await this.stop();
    this.nginx?.child.kill('SIGTERM');
    await this.nginx?.exited;
    await rm(this.root, { recursive: true });
  }
}
