// The to-dos of each user, in one Redis hash a user. Any instance can serve any user: none keeps anything of its own.
const { randomUUID } = require('node:crypto');
const { createClient } = require('@redis/client');

const redis = createClient({ socket: { host: process.env.REDIS_HOST, port: Number(process.env.REDIS_PORT) } });
redis.on('error', (error) => console.error(`redis: ${error.message}`));
let connecting;

/** The connection, made by the first call that needs it. */
const store = () => (connecting ??= redis.connect().catch((error) => ((connecting = undefined), Promise.reject(error))));

const answer = (statusCode, value) => ({
  statusCode,
  headers: { 'content-type': 'application/json' },
  body: value === undefined ? '' : JSON.stringify(value),
});

/** The user that a token stands for, or undefined. */
async function whose(authorization) {
  const asked = await fetch(`${process.env.HEARTH_GATEWAY}/function/default/user/me`, { headers: { authorization } });
  return asked.ok ? asked.json() : undefined;
}

exports.handler = async (event) => {
  const { method } = event.requestContext.http;
  const [, id] = event.rawPath.match(/\/todos(?:\/([\w-]+))?$/) ?? [];
  const user = await whose(event.headers.authorization ?? '');
  if (!user) return answer(401, { error: 'say who you are: authorization: Bearer TOKEN' });

  const key = `todos:${user.id}`;
  const db = await store();
  const body = event.body ? JSON.parse(event.body) : {};

  if (!id && method === 'GET') {
    const all = Object.values(await db.hGetAll(key)).map((text) => JSON.parse(text));
    return answer(200, all.sort((a, b) => a.created - b.created));
  }
  if (!id && method === 'POST') {
    if (typeof body.text !== 'string' || !body.text.trim()) return answer(400, { error: 'text: what is to be done?' });
    const todo = { id: randomUUID(), text: body.text.trim().slice(0, 500), done: false, created: Date.now() };
    await db.hSet(key, todo.id, JSON.stringify(todo));
    return answer(201, todo);
  }
  if (id && method === 'GET') {
    const found = await db.hGet(key, id);
    return found ? answer(200, JSON.parse(found)) : answer(404, { error: `no to-do ${id}` });
  }
  if (id && method === 'PATCH') {
    const found = await db.hGet(key, id);
    if (!found) return answer(404, { error: `no to-do ${id}` });
    const todo = JSON.parse(found);
    if (typeof body.text === 'string') todo.text = body.text.trim().slice(0, 500);
    if (typeof body.done === 'boolean') todo.done = body.done;
    await db.hSet(key, id, JSON.stringify(todo));
    return answer(200, todo);
  }
  if (id && method === 'DELETE') {
    return (await db.hDel(key, id)) ? answer(204) : answer(404, { error: `no to-do ${id}` });
  }
  return answer(405, { error: `${method} means nothing here` });
};
