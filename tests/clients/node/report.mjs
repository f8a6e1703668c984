// What the Node clients share: one line of JSON for each request.

import { readFileSync } from 'node:fs';

/** `http://USER:PASSWORD@HOST:PORT`, or none when the environment's own variables are to be followed. */
export const PROXY = process.env.CLIENT_PROXY;
export const CA = readFileSync(process.env.CLIENT_CA, 'utf8');
export const urls = process.argv.slice(2);

export function answer(status, body) {
  console.log(JSON.stringify({ status, body }));
}

export function failure(error, code = null) {
  const causes = [];
  for (let cause = error; cause; cause = cause.cause) {
    causes.push(`${cause.name}: ${cause.message}`);
  }
  console.log(JSON.stringify({ error: causes.join(' < '), code }));
}
