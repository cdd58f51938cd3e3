exports.handler = () => new Promise((done) => setTimeout(() => done({ instance: process.env.HEARTH_INSTANCE }), 100));
