const body = JSON.stringify({ message: 'Hello, world!' });

exports.handler = (req, res) => {
  res.setHeader('content-type', 'application/json');
  res.end(body);
};
