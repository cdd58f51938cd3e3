const { handler } = require('./http.js');

require('node:http').createServer(handler).listen(process.env.PORT, '127.0.0.1');
