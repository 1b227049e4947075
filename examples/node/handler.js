// A Penstock handler: each message is one POST, the status is the verdict.
'use strict';

const http = require('node:http');

let handled = 0;

// The work. Throw an error with `retry: true` for what may pass.
async function handle(order, { topic, partition, offset }) {
  handled += 1;
  if (handled % 10_000 === 0) {
    console.log(`${handled} orders, the last from ${topic}/${partition}@${offset}: ${JSON.stringify(order)}`);
  }
}

const server = http.createServer(async (request, response) => {
  const place = {
    topic: request.headers['ce-kafkatopic'],
    partition: request.headers['ce-kafkapartition'],
    offset: request.headers['ce-kafkaoffset'],
  };
  try {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    await handle(JSON.parse(Buffer.concat(chunks).toString()), place);
    response.statusCode = 204; // handled
  } catch (error) {
    if (error.retry) {
      response.statusCode = 503; // try again, up to delivery.maxAttempts times
    } else {
      response.statusCode = 422; // no use trying again
    }
  }
  response.end();
});

// Node closes idle connections after 5 s, perhaps just as the next message is sent.
server.keepAliveTimeout = 0;
// On all addresses: the kubelet asks at the pod's own.
server.listen(Number(process.env.PORT ?? 8080));
