'use strict';
exports.handler = async (event) => ({ statusCode: 200, headers: { 'content-type': 'text/plain' }, body: event.rawPath });
exports.value = () => ({ ok: true });
exports.serve = (req, res) => res.end('ok');
