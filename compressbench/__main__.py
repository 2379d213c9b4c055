from compressbench.cli.main import main

main()
