// docs/asyncapi.yaml: every frame that a test receives is held against it.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';

import Ajv from 'ajv';
import yaml from 'js-yaml';

const PLACE = '#/channels/connection/messages/';

const text = await readFile(new URL('../../docs/asyncapi.yaml', import.meta.url), 'utf8');
const { operations, components } = yaml.load(text);
const ajv = new Ajv({ strict: false });
ajv.addSchema({ $id: 'asyncapi', components });

const compile = (messages) => new Map(messages.map(({ $ref }) => {
  const name = $ref.replace(PLACE, '');
  return [name, ajv.compile({ $ref: `asyncapi#/components/messages/${name}/payload` })];
}));
const all = Object.values(operations);
const received = compile(all.flatMap(({ action, messages, reply }) => [
  ...action === 'send' ? messages : [],
  ...reply?.messages ?? [],
]));
const sent = compile(all.filter(({ action }) => action === 'receive').flatMap(({ messages }) => messages));

// Parses a frame that the server sent.
export function parseReceived(data) {
  return checked(received, JSON.parse(data));
}

// The text of a frame that a client may send.
export function describedFrame(frame) {
  return JSON.stringify(checked(sent, frame));
}

function checked(validators, frame) {
  const reasons = [];
  for (const [name, validate] of validators) {
    if (validate(frame)) return frame;
    reasons.push(`not '${name}': ${ajv.errorsText(validate.errors, { dataVar: 'the frame' })}`);
  }
  assert.fail(`docs/asyncapi.yaml does not describe ${JSON.stringify(frame).slice(0, 2000)}\n${reasons.join('\n')}`);
}
