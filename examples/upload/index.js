const { createHash } = require('node:crypto');
const { createReadStream } = require('node:fs');
const { unlink } = require('node:fs/promises');
const { pipeline } = require('node:stream/promises');

const express = require('express');
const multer = require('multer');

// Files go to /tmp, which belongs to this instance alone and has the size that the manifest gives it.
const upload = multer({ dest: '/tmp/uploads', limits: { fileSize: 32 << 20 } });
const app = express();

app.post('/upload', upload.array('files'), async (req, res) => {
  const files = [];
  for (const file of req.files) {
    const hash = createHash('sha256');
    await pipeline(createReadStream(file.path), hash);
    await unlink(file.path);
    files.push({ name: file.originalname, size: file.size, sha256: hash.digest('hex') });
  }
  res.json({ files, title: req.body.title });
});

exports.app = app;
