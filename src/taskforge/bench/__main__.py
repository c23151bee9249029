from taskforge.bench.run import main

main()
