exports.handler = async () => ({ message: 'Hello, world!' });
