exports.handler = (req, res) => {
  res.setHeader('content-type', 'text/plain');
  res.end(`Hello from ${req.method} ${req.url}\n`);
};
