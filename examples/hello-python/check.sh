expect 200 '"Hello, world!"' /hello-python
expect 200 '"Hello, Ada!"' '/hello-python?name=Ada'
