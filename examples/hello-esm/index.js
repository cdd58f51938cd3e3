import { readFile } from 'node:fs/promises';

// A module may wait while it loads: the instance is ready when it has loaded.
const names = JSON.parse(await readFile(new URL('./names.json', import.meta.url)));

export const handler = async () => ({
  statusCode: 200,
  headers: { 'content-type': 'text/plain' },
  body: `${process.env.GREETING}, ${names.join(' and ')}!\n`,
});
