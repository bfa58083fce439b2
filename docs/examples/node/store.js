// Mezzo from Node: node store.js HOST:PORT PROTO_FOLDER
//
// Stock stubs, made from the .proto files when it runs. Puts chunks, gets them, and compares the bytes.
'use strict';

const assert = require('node:assert');
const crypto = require('node:crypto');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const [target, protos] = process.argv.slice(2);
const PIECE_BYTES = 512 * 1024;
const TIMEOUT_MS = 20000;

const definition = loader.loadSync(
  [path.join(protos, 'mezzo/v1/store.proto'), path.join(protos, 'mezzo/v1/session.proto')],
  { includeDirs: [protos], keepCase: true, longs: Number, enums: String, defaults: true },
);
const mezzo = grpc.loadPackageDefinition(definition).mezzo.v1;
const store = new mezzo.StoreService(target, grpc.credentials.createInsecure());
const sessions = new mezzo.SessionService(target, grpc.credentials.createInsecure());

const deadline = () => ({ deadline: Date.now() + TIMEOUT_MS });

function call(client, method, request) {
  return new Promise((resolve, reject) => {
    client[method](request, deadline(), (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

function put(namespace, chunks) {
  return new Promise((resolve, reject) => {
    const stream = store.Put(deadline(), (error, answer) => (error ? reject(error) : resolve(answer.states)));
    stream.write({
      header: { namespace, keys: chunks.map((c) => c.key), lengths: chunks.map((c) => c.data.length) },
    });
    chunks.forEach(({ data }, index) => {
      for (let offset = 0; offset < data.length; offset += PIECE_BYTES) {
        stream.write({ pieces: [{ index, offset, data: data.subarray(offset, offset + PIECE_BYTES) }] });
      }
    });
    stream.end();
  });
}

// Buffers in the order of the keys; null for a miss. Nothing is believed before the result came.
async function get(namespace, keys) {
  const pieces = keys.map(() => []);
  let result = null;
  for await (const message of store.Get({ namespace, keys }, deadline())) {
    for (const piece of message.pieces) pieces[piece.index].push(piece.data);
    if (message.result) result = message.result;
  }
  return result.found.map((found, index) => (found ? Buffer.concat(pieces[index]) : null));
}

async function main() {
  const namespace = 'from-node';
  const session = await call(sessions, 'OpenSession', { client: 'node' });
  assert.strictEqual(session.map.shards.length, 1);

  const chunks = [3 * 1024 * 1024 + 17, 5, 100000].map((length, index) => ({
    key: Buffer.from(`chunk-${index}`),
    data: crypto.randomBytes(length),
  }));
  const keys = chunks.map((c) => c.key);
  assert.deepStrictEqual(await put(namespace, chunks), Array(3).fill('PUT_STATE_STORED'));
  assert.deepStrictEqual(await put(namespace, chunks), Array(3).fill('PUT_STATE_EXISTS'));

  const got = await get(namespace, [keys[1], Buffer.from('nothing'), keys[0], keys[2]]);
  assert.strictEqual(got[1], null);
  [[0, 1], [2, 0], [3, 2]].forEach(([place, index]) => assert.ok(got[place].equals(chunks[index].data)));

  const total = chunks.reduce((sum, c) => sum + c.data.length, 0);
  const found = await call(store, 'Lookup', { namespace, keys: [...keys, Buffer.from('nothing')] });
  assert.deepStrictEqual([found.prefix, found.bytes], [3, total]);

  const lease = await call(store, 'Acquire', { namespace, keys, lease_ms: 60000 });
  assert.deepStrictEqual([lease.prefix, lease.bytes, lease.lease.length], [3, total, 16]);
  const held = await call(store, 'Stat', { namespace, keys });
  assert.ok(held.chunks.every((chunk, index) => chunk.leased && chunk.bytes === chunks[index].data.length));
  assert.strictEqual((await call(store, 'Release', { lease: lease.lease })).held, true);
  assert.strictEqual((await call(store, 'Release', { lease: lease.lease })).held, false);

  const gone = await call(store, 'Delete', { namespace, keys: [keys[0], Buffer.from('nothing')] });
  assert.deepStrictEqual(gone.deleted, [true, false]);
  assert.strictEqual((await call(store, 'Stat', { namespace, keys })).chunks[0].present, false);
  assert.ok((await call(store, 'ShardStat', {})).numbers.chunks >= 2);

  // An error has a status, and says in its metadata what it is to Mezzo.
  await assert.rejects(call(store, 'Lookup', { namespace, keys: [] }), (error) => {
    assert.strictEqual(error.code, grpc.status.INVALID_ARGUMENT);
    assert.deepStrictEqual(error.metadata.get('mezzo-code'), ['INVALID']);
    return true;
  });
  console.log(`ok: ${total} bytes there and back`);
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
