expect 200 '{"message":"Hello, Ada!"}' '/hello-wsgi?name=Ada'
expect 200 '{"bytes":300000}' /hello-wsgi/length --data-binary "@$(bytes 300000)"
