const compression = require('compression');
const express = require('express');

const app = express();
app.use(compression());
app.use(express.json());

app.get('/hello-express', (req, res) => res.json({ message: `Hello, ${req.query.name ?? 'world'}!` }));
app.get('/hello-express/long', (req, res) => res.type('text').send('long '.repeat(10_000)));
app.post('/hello-express', (req, res) => res.status(201).json({ received: req.body }));

exports.app = app;
