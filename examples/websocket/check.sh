expect 426 'Connect with a WebSocket.' /websocket
expect_output 'you said: good day' node "$EXAMPLE/client.js" "${URL/http/ws}/websocket"
