'use strict';
// Finds the user's handler, loads it, and decides how it is called.
//
// The handler is `file.export`, as in `index.handler` or `src/api.routes.get`: the file is what stands before the first dot behind the last
// slash (before a later one, if there is no such file), the rest is the way through its exports. Without a file extension in it, `.js`, `.mjs`,
// `.cjs` are tried. ES modules are imported, CommonJS is required, as Node itself would decide (extension, `type` of the nearest package.json).
//
// `signature: auto` looks at what is exported:
//
// | what | signature |
// |---|---|
// | an http.Server, or anything with `emit` and `listen` that is no function | http |
// | an application: a function with `handle` and `use` (Express, connect), an object with `callback` (Koa) or `routing` (Fastify) | http |
// | an object with a `fetch` function, or a function that is exported as `fetch` | fetch |
// | a module that exports an `upgrade` function beside it | http |
// | a function whose first two parameters are called req or request, and res or response | http |
// | any other function | event |

const fs = require('fs');
const path = require('path');
const { pathToFileURL } = require('url');
const logs = require('./logs.cjs');

class Refused extends Error {
  constructor(type, message) {
    super(message);
    this.hearth = { type, message };
  }
}

/** Loads what a `load` frame names; the handler has `signature`, and `invoke(call)` or `attach(socket)`. */
async function load(state, request) {
  Object.assign(process.env, request.env);
  state.concurrency = Math.max(1, request.concurrency);
  state.serial = request.concurrency <= 1;
  logs.configure(request.concurrency);
  const { file, exports: names } = locate(request.code, request.handler || 'index.handler');
  process.chdir(request.code);
  let module;
  try {
    module = await bring(file, request.code);
  } catch (error) {
    const described = logs.failure('LoadFailed', error);
    if (error instanceof SyntaxError && !String(error.stack).includes(request.code)) described.stack = parsed(file, request.code) || described.stack;
    throw Object.assign(new Error('load'), { hearth: described });
  }
  const shown = path.relative(request.code, file);
  const { value, holder } = find(module, names, shown, request.handler === undefined);
  const upgrade = own(module, 'upgrade');
  const signature = request.signature === 'auto' ? detect(value, names, upgrade) : request.signature;
  switch (signature) {
    case 'event':
      mustBeFunction(value, names, shown);
      return require('./event.cjs').handler(value.bind(holder), value.length, request);
    case 'fetch': {
      const serve = typeof value === 'function' ? value.bind(holder) : value.fetch;
      mustBeFunction(serve, [...names, 'fetch'], shown);
      return require('./fetch.cjs').handler(typeof value === 'function' ? serve : serve.bind(value), request);
    }
    case 'http':
      return require('./http.cjs').handler(state, application(value, holder, names, shown), upgrade);
    default:
      throw new Refused('HandlerUnsupported', `Node does not serve the ${signature} signature: use event, http or fetch`);
  }
}

function locate(code, handler) {
  const slash = handler.lastIndexOf('/') + 1;
  const tried = [];
  // `index.js`: what the file itself exports.
  const whole = path.resolve(code, handler);
  if (whole.startsWith(path.resolve(code) + path.sep) && /\.[cm]?js$/.test(whole) && isFile(whole)) return { file: whole, exports: [] };
  for (let dot = handler.indexOf('.', slash); dot >= 0; dot = handler.indexOf('.', dot + 1)) {
    const base = path.resolve(code, handler.slice(0, dot));
    if (!base.startsWith(path.resolve(code) + path.sep)) break;
    for (const extension of ['.js', '.mjs', '.cjs']) {
      if (isFile(base + extension)) return { file: base + extension, exports: names(handler.slice(dot + 1)) };
    }
    for (const extension of ['.ts', '.mts', '.cts', '.tsx', '.jsx']) {
      if (isFile(base + extension)) {
        throw new Refused('HandlerUnsupported', `${path.relative(code, base + extension)} must be compiled to JavaScript first: Node does not run it`);
      }
    }
    tried.push(path.relative(code, base) + '.js');
  }
  if (tried.length === 0) throw new Refused('HandlerFileMissing', `handler "${handler}" is not file.export, as in index.handler`);
  throw new Refused('HandlerFileMissing', `there is no ${tried[0]} (or .mjs, .cjs) in the code: handler "${handler}" names it`);
}

function names(text) {
  return text.split('.').filter((name) => name !== '');
}

function isFile(file) {
  const stat = fs.statSync(file, { throwIfNoEntry: false });
  return stat !== undefined && stat.isFile();
}

function bring(file, code) {
  if (file.endsWith('.mjs') || (file.endsWith('.js') && packageType(path.dirname(file), code) === 'module')) {
    return import(pathToFileURL(file).href);
  }
  // As if the file had been started itself, but for `require.main`: what tests that does not want to be a server here.
  return require(file);
}

/** Files that are looked through for a mistake of syntax, and how long that may take, in milliseconds: each costs the start of a Node. */
const MAX_PARSED = 20;
const PARSING = 3000;

/** Where an ES module cannot be parsed, as `node --check` says it: the error that an import throws does not. */
function parsed(file, code) {
  const deadline = Date.now() + PARSING;
  for (const each of [file, ...modules(code)].slice(0, MAX_PARSED)) {
    const timeout = deadline - Date.now();
    if (timeout <= 0) return undefined;
    const { status, stderr } = require('child_process').spawnSync(process.execPath, ['--check', each], { timeout, encoding: 'utf8' });
    if (status === 1 && stderr.includes(each)) return logs.cut(stderr.split('\nNode.js v')[0].trim());
  }
  return undefined;
}

/** The ES modules of the code itself. */
function modules(code) {
  const found = [];
  const directories = [path.resolve(code)];
  while (directories.length > 0 && found.length < MAX_PARSED) {
    const directory = directories.shift();
    for (const entry of fs.readdirSync(directory, { withFileTypes: true })) {
      const full = path.join(directory, entry.name);
      if (entry.isDirectory() && entry.name !== 'node_modules' && !entry.name.startsWith('.')) directories.push(full);
      else if (entry.isFile() && (entry.name.endsWith('.mjs') || (entry.name.endsWith('.js') && packageType(directory, code) === 'module'))) found.push(full);
    }
  }
  return found;
}

/** The `type` of the nearest package.json, not above the code. */
function packageType(directory, code) {
  for (;;) {
    const file = path.join(directory, 'package.json');
    // Looked at first: an error for each directory without one would cost more than all the rest here.
    try {
      if (isFile(file)) return JSON.parse(fs.readFileSync(file, 'utf8')).type || 'commonjs';
    } catch {
      return 'commonjs';
    }
    const parent = path.dirname(directory);
    if (directory === path.resolve(code) || parent === directory) return 'commonjs';
    directory = parent;
  }
}

function own(module, name) {
  if (module === null || (typeof module !== 'object' && typeof module !== 'function')) return undefined;
  if (typeof module[name] === 'function') return module[name];
  const other = module.default;
  return other !== null && typeof other === 'object' && typeof other[name] === 'function' ? other[name] : undefined;
}

/** Follows the names through the exports; through `default` where the module itself has no such name. */
function find(module, path, shown, anyDefault) {
  let value = module;
  let holder;
  let names = path;
  if (anyDefault && value !== null && value !== undefined && value.handler === undefined) names = [];
  if (names.length === 0) {
    const chosen = isModule(value) || (value && value.__esModule) ? value.default : value;
    return { value: chosen, holder: undefined };
  }
  names.forEach((name, index) => {
    let next = value === null || value === undefined ? undefined : value[name];
    if (next === undefined && index === 0 && value && value.default !== null && value.default !== undefined) {
      value = value.default;
      next = value[name];
    }
    if (next === undefined) {
      const there = Object.keys(Object(value)).filter((key) => key !== 'default').slice(0, 10);
      const has = there.length > 0 ? `it exports ${there.join(', ')}` : 'it exports nothing by a name';
      throw new Refused('HandlerMissing', `${shown} has no export "${names.slice(0, index + 1).join('.')}": ${has}`);
    }
    holder = value;
    value = next;
  });
  // A method of an object keeps it; a module is nobody's `this`.
  return { value, holder: holder === module ? undefined : holder };
}

function isModule(value) {
  return value !== null && typeof value === 'object' && value[Symbol.toStringTag] === 'Module';
}

function mustBeFunction(value, names, shown) {
  if (typeof value !== 'function') {
    throw new Refused('HandlerMissing', `export "${names.join('.') || 'default'}" of ${shown} is ${value === null ? 'null' : typeof value}, and no function`);
  }
}

function isServer(value) {
  return typeof value === 'object' && value !== null && typeof value.emit === 'function' && typeof value.listen === 'function' && typeof value.listeners === 'function';
}

/** What serves a request in an export of the `http` signature. */
function application(value, holder, names, shown) {
  if (isServer(value) || typeof value === 'function') return holder === undefined || isServer(value) ? value : value.bind(holder);
  if (value !== null && typeof value === 'object') {
    if (typeof value.callback === 'function') return value.callback();
    if (typeof value.routing === 'function') {
      return async (request, response) => {
        await value.ready();
        value.routing(request, response);
      };
    }
    if (typeof value.handle === 'function') return value.handle.bind(value);
  }
  return mustBeFunction(value, names, shown);
}

function detect(value, names, upgrade) {
  if (isServer(value)) return 'http';
  if (value !== null && typeof value === 'object') {
    if (typeof value.fetch === 'function') return 'fetch';
    if (typeof value.callback === 'function' || typeof value.routing === 'function') return 'http';
    return 'event';
  }
  if (typeof value !== 'function') return 'event';
  if (typeof value.handle === 'function' && typeof value.use === 'function') return 'http';
  if (names[names.length - 1] === 'fetch') return 'fetch';
  if (typeof value.fetch === 'function') return 'fetch';
  if (upgrade !== undefined) return 'http';
  return takesRequestAndResponse(value) ? 'http' : 'event';
}

function takesRequestAndResponse(value) {
  if (value.length < 2) return false;
  const text = Function.prototype.toString.call(value).slice(0, 400);
  return /^(?:async\s+)?(?:function\b[^(]*|[\w$]+\s*)?\(\s*_?(?:req|request)\s*,\s*_?(?:res|response|reply)\b/.test(text);
}

module.exports = { load };
